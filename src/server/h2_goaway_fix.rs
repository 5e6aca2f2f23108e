//! What comes too late on a connection over HTTP/2 that was told to go.
//!
//! h2 says goodbye twice: that no more calls are taken, with a ping; and, when the ping is
//! answered, which call was the last. Clients that write the answer before calls they have begun
//! already (gRPC's C core, and with it Python, C++, Ruby, PHP) send some after it. h2 passes over
//! these, and the client makes them elsewhere. But a WINDOW_UPDATE for one of them h2 (0.4.20)
//! takes for a fault of the whole connection, and cuts the calls that run on it. So such a frame is
//! made one of a kind that nobody knows, which is passed over too.
//!
//! And a client that has windows in which nothing fits is let go: what it does not take would be
//! kept by h2, where nobody counts it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::body::LAST_CHUNK_BYTES;

/// What a connection over HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, kind, flags and stream of a frame.
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// A kind of frame that there is not.
const UNKNOWN: u8 = 0xfe;
/// What h2 has in the ping of its goodbye.
const GOODBYE: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
const ACK: u8 = 1;
/// One of the settings: a name of two bytes, a value of four.
const SETTING: usize = 6;
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
/// No client has less than 65,535 that does not mean to, and gRPC's C core, when it is short of
/// memory, no less than this (or nothing).
const LEAST_WINDOW: usize = LAST_CHUNK_BYTES;

/// A connection, without what comes too late.
pub(super) struct GoawayFix<T> {
    io: T,
    frames: Frames,
}

impl<T> GoawayFix<T> {
    pub(super) fn new(io: T) -> Self {
        Self {
            io,
            frames: Frames {
                begun: [0; PREFACE.len()],
                filled: 0,
                wanted: PREFACE.len(),
                rest: 0,
                settings: 0,
                is_narrow: false,
                newest: 0,
                last: None,
            },
        }
    }
}

/// The frames of a client, as its bytes come.
struct Frames {
    /// What has come of the preface, then of the head of each frame; of a ping's answer all.
    begun: [u8; PREFACE.len()],
    filled: usize,
    /// How much of it is looked at. Nothing: this is no HTTP/2.
    wanted: usize,
    /// Bytes before the next frame.
    rest: usize,
    /// Bytes of settings before that.
    settings: usize,
    /// Its windows are too small.
    is_narrow: bool,
    /// The newest call.
    newest: u32,
    /// The last one that is taken, once that is settled.
    last: Option<u32>,
}

impl Frames {
    fn pass(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() && self.wanted > 0 {
            let passed_over = self.rest.min(bytes.len() - at);
            self.rest -= passed_over;
            at += passed_over;
            let taken = (self.wanted - self.filled).min(bytes.len() - at);
            self.begun[self.filled..self.filled + taken].copy_from_slice(&bytes[at..at + taken]);
            self.filled += taken;
            at += taken;
            if self.filled == self.wanted {
                self.look(&mut bytes[..at]);
            }
        }
    }

    /// Looks at what has begun, and ends where these bytes end.
    fn look(&mut self, bytes: &mut [u8]) {
        if self.wanted == PREFACE.len() {
            self.wanted = if self.begun == *PREFACE { HEAD } else { 0 };
            self.filled = 0;
            return;
        }
        if self.settings > 0 {
            self.look_at_setting();
            return;
        }
        let [a, b, c, kind, flags, id @ ..] = self.begun;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]) & (u32::MAX >> 1);
        if kind == PING && flags & ACK != 0 && length == GOODBYE.len() && self.filled == HEAD {
            self.wanted = HEAD + length;
            return;
        }
        if kind == SETTINGS && flags & ACK == 0 && length >= SETTING {
            (self.filled, self.wanted) = (0, SETTING);
            (self.settings, self.rest) = (length / SETTING * SETTING, 0);
            return;
        }
        if self.filled > HEAD {
            if self.begun[HEAD..self.filled] == GOODBYE {
                self.last = Some(self.newest);
            }
        } else {
            self.rest = length;
        }
        (self.filled, self.wanted) = (0, HEAD);
        match kind {
            HEADERS => self.newest = self.newest.max(id),
            // Where the kind has come before, with the read before this one, it is left as it is.
            WINDOW_UPDATE if self.last.is_some_and(|last| id > last) && bytes.len() >= HEAD - 3 => {
                bytes[bytes.len() - (HEAD - 3)] = UNKNOWN;
            }
            _ => {}
        }
    }

    fn look_at_setting(&mut self) {
        let [name @ .., a, b, c, d] = self.begun[..SETTING].try_into().unwrap_or([0; SETTING]);
        let value = u32::from_be_bytes([a, b, c, d]) as usize;
        self.is_narrow |= name == INITIAL_WINDOW_SIZE && value < LEAST_WINDOW;
        self.settings -= SETTING;
        (self.filled, self.wanted) = (0, if self.settings > 0 { SETTING } else { HEAD });
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GoawayFix<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        self.frames.pass(&mut buffer.filled_mut()[before..]);
        Poll::Ready(if self.frames.is_narrow {
            Err(io::Error::other("its windows take nothing"))
        } else {
            Ok(())
        })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GoawayFix<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
    }

    fn window_update(id: u32) -> Vec<u8> {
        frame(WINDOW_UPDATE, 0, id, &[0, 0, 0, 1])
    }

    /// The bytes, as they are when they have come in reads of at most so many.
    fn passed(bytes: &[u8], read: usize) -> Vec<u8> {
        let mut frames = GoawayFix::new(()).frames;
        let mut bytes = bytes.to_vec();
        bytes.chunks_mut(read).for_each(|read| frames.pass(read));
        bytes
    }

    /// A connection that ends with this frame.
    fn connection(last: &[u8]) -> Vec<u8> {
        let other = [0x3b, 0x7c, 0xdb, 0x7a, 0x0b, 0x87, 0x16, 0xb4];
        let parts = [
            &PREFACE[..],
            &frame(4, 0, 0, &[0; 12]),
            &frame(HEADERS, 4, 5, b"head"),
            &window_update(7),
            &frame(PING, ACK, 0, &other),
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
        // However the bytes come; but where a read ends within the head of that frame, it is left
        // as it is.
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
    fn windows_that_take_nothing_are_found_however_the_bytes_come() {
        let setting =
            |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let is_narrow = |payload: &[u8], flags: u8, read: usize| {
            let mut bytes =
                [&PREFACE[..], &frame(SETTINGS, flags, 0, payload), &frame(HEADERS, 4, 1, b"head")]
                    .concat();
            let mut frames = GoawayFix::new(()).frames;
            bytes.chunks_mut(read).for_each(|read| frames.pass(read));
            assert_eq!(
                (frames.newest, frames.rest, frames.filled),
                (1, 0, 0),
                "what follows is found"
            );
            frames.is_narrow
        };
        for read in 1..80 {
            assert!(!is_narrow(&[], 0, read) && !is_narrow(&[], ACK, read));
            assert!(!is_narrow(
                &[setting(3, 0), setting(4, 65_535), setting(5, 1)].concat(),
                0,
                read
            ));
            assert!(
                !is_narrow(&setting(4, 2_048), 0, read)
                    && !is_narrow(&setting(4, u32::MAX), 0, read)
            );
            assert!(is_narrow(&[setting(3, 100), setting(4, 2_047)].concat(), 0, read));
            assert!(is_narrow(&[setting(4, 0), setting(4, 65_535)].concat(), 0, read));
        }
    }

    #[test]
    fn what_is_no_http_2_is_left_as_it_is() {
        let given =
            [&b"POST /chatrooms/1/mute HTTP/1.1\r\n\r\n"[..], &connection(&window_update(7))]
                .concat();
        assert_eq!(passed(&given, 7), given);
    }
}
