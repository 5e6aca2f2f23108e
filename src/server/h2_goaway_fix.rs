//! A WINDOW_UPDATE that comes too late on a connection that was told to go.
//!
//! h2 says goodbye twice: that no more calls are taken, with a ping; and, when the ping is
//! answered, which call was the last. Clients that write the answer before calls they have begun
//! already (gRPC's C core, and with it Python, C++, Ruby, PHP) send some after it. h2 (0.4.20)
//! ignores their HEADERS, DATA, RST_STREAM and PUSH_PROMISE, by a [guard] `id > max_stream_id()` that
//! [`recv_window_update`] lacks: it takes the stream for an idle one, which is a fault of the whole
//! connection, and cuts the calls that run on it.
//!
//! So such a frame is made one of an unknown kind, which h2 ignores; the client makes the call
//! elsewhere.
//!
//! [guard]: https://github.com/hyperium/h2/blob/b0e890842ac16d3c76836fd4fcc06421acb15fa7/src/proto/streams/streams.rs#L480
//! [`recv_window_update`]: https://github.com/hyperium/h2/blob/b0e890842ac16d3c76836fd4fcc06421acb15fa7/src/proto/streams/streams.rs#L730

const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
/// What h2 has in the ping of its goodbye.
const GOODBYE: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// Knows which calls of one connection h2 does not take.
#[derive(Default)]
pub(super) struct GoawayFix {
    /// The newest call.
    newest: u32,
    /// The last one that is taken, once that is settled.
    last: Option<u32>,
}

impl GoawayFix {
    /// Whether the next frame, of this kind and stream, is one that h2 takes for a fault.
    pub(super) fn is_late(&mut self, kind: u8, id: u32) -> bool {
        if kind == HEADERS {
            self.newest = self.newest.max(id);
        }
        kind == WINDOW_UPDATE && self.last.is_some_and(|last| id > last)
    }

    /// Takes the answer to a ping.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        if payload == GOODBYE {
            self.last = Some(self.newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, pin::pin, sync::Arc};

    use axum::body::Body;
    use http::Response;
    use hyper::{server::conn::http2, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::{
        io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
        sync::Notify,
    };

    use super::*;
    use crate::server::h2_frames::{Frames, Inspected};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const HEAD: usize = 9;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    const UNKNOWN: u8 = 0xfe;
    const OTHER: [u8; 8] = [0x3b, 0x7c, 0xdb, 0x7a, 0x0b, 0x87, 0x16, 0xb4];

    fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
    }

    fn window_update(id: u32) -> Vec<u8> {
        frame(WINDOW_UPDATE, 0, id, &[0, 0, 0, 1])
    }

    /// A whole call: GET / of http.
    fn call(id: u32) -> Vec<u8> {
        frame(HEADERS, 5, id, &[0x82, 0x84, 0x86, 0x41, 1, b'x'])
    }

    /// The bytes, as they are when they have come in reads of at most so many.
    fn passed(bytes: &[u8], read: usize) -> Vec<u8> {
        let mut frames = Frames::default();
        let mut bytes = bytes.to_vec();
        bytes.chunks_mut(read).for_each(|read| frames.pass(read));
        bytes
    }

    /// A connection that ends with this frame.
    fn connection(last: &[u8]) -> Vec<u8> {
        let parts = [
            PREFACE,
            &frame(SETTINGS, 0, 0, &[0; 12]),
            &frame(HEADERS, 4, 5, b"head"),
            &window_update(7),
            &frame(PING, ACK, 0, &OTHER),
            &window_update(7),
            // Which looks like one, within a message.
            &frame(0, 0, 5, &window_update(9)),
            &frame(PING, 0, 0, &GOODBYE),
            &window_update(7),
            &frame(PING, ACK, 0, &GOODBYE),
            &frame(HEADERS, 4, 7, b"head"),
            &window_update(0),
            &window_update(5),
            last,
        ];
        parts.concat()
    }

    #[test]
    fn only_what_opens_the_window_of_a_call_after_the_last_is_passed_over() {
        let (given, expected) =
            (connection(&window_update(7)), connection(&frame(UNKNOWN, 0, 7, &[0, 0, 0, 1])));
        assert_eq!(passed(&given, given.len()), expected);
        // However the bytes come; but where a read ends within the head of that frame, it is left as it is.
        let head = given.len() - 13;
        for read in 1..given.len() {
            let is_parted = (head + 3) / read != (head + HEAD - 1) / read;
            assert_eq!(
                passed(&given, read),
                if is_parted { &given } else { &expected }[..],
                "reads of {read}"
            );
        }
    }

    #[test]
    fn what_is_no_http_2_is_left_as_it_is() {
        let given =
            [&b"POST /chatrooms/1/mute HTTP/1.1\r\n\r\n"[..], &connection(&window_update(7))]
                .concat();
        assert_eq!(passed(&given, 7), given);
    }

    /// Reads until the frame has come. Errors: the connection has ended.
    async fn read_until(client: &mut DuplexStream, frame: &[u8]) -> Result<(), String> {
        let mut read = Vec::new();
        while !read.windows(frame.len()).any(|part| part == frame) {
            if client.read_buf(&mut read).await.map_err(|error| error.to_string())? == 0 {
                return Err(format!("the connection has ended: {read:?}"));
            }
        }
        Ok(())
    }

    /// Opens the window of a call that came after the goodbye, while another one runs. Errors: how
    /// the connection ended.
    async fn open_window_late<T>(wrap: impl FnOnce(DuplexStream) -> T) -> Result<(), String>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (mut client, server) = duplex(1 << 16);
        let begun = Arc::new(Notify::new());
        let service = service_fn(|_| {
            begun.notify_one();
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let builder = http2::Builder::new(TokioExecutor::new());
        let mut connection = pin!(builder.serve_connection(TokioIo::new(wrap(server)), service));
        let parts = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &call(1)];
        client.write_all(&parts.concat()).await.map_err(|error| error.to_string())?;
        tokio::select! {
            ended = &mut connection => return Err(format!("before the goodbye: {ended:?}")),
            () = begun.notified() => {}
        }
        connection.as_mut().graceful_shutdown();
        let late = async {
            read_until(&mut client, &frame(PING, 0, 0, &GOODBYE)).await?;
            let parts = [
                frame(PING, ACK, 0, &GOODBYE),
                call(3),
                window_update(3),
                frame(PING, 0, 0, &OTHER),
            ];
            client.write_all(&parts.concat()).await.map_err(|error| error.to_string())?;
            read_until(&mut client, &frame(PING, ACK, 0, &OTHER)).await
        };
        tokio::select! {
            ended = &mut connection => Err(format!("{ended:?}")),
            late = late => late,
        }
    }

    #[tokio::test]
    async fn h2_alone_still_ends_a_connection_for_a_window_that_is_opened_late() {
        assert_eq!(open_window_late(Inspected::new).await, Ok(()));
        let ended = open_window_late(|io| io).await;
        let is_needed = ended.as_ref().is_err_and(|how| how.contains("PROTOCOL_ERROR"));
        assert!(is_needed, "h2 has mended this: delete server/h2_goaway_fix.rs ({ended:?})");
    }
}
