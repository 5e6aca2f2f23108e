//! Inspects the HTTP/2 frames of a client before h2 reads them, for two purposes that h2 has no
//! setting for: [`GoawayFix`] and [`is_narrow`]. h2's own parser is private; this one knows only
//! frame headers and lengths.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{h2_goaway_fix::GoawayFix, head_timer::HeadTimer, narrow_window::is_narrow};

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The size of a frame header: length, type, flags and stream.
const HEAD: usize = 9;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
/// An unassigned frame type, which h2 ignores.
const UNKNOWN: u8 = 0xfe;
/// The size of one setting: an identifier of two bytes, a value of four.
const SETTING: usize = 6;
const PING_BYTES: usize = 8;

/// A connection that fails if its client sets too narrow windows, and without late frames.
pub(super) struct Inspected<T> {
    io: T,
    frames: Frames,
    head_timer: HeadTimer,
}

impl<T> Inspected<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, frames: Frames::default(), head_timer: HeadTimer::default() }
    }

    /// The timer of the connection's HTTP/1 heads, which learns here when bytes arrive.
    pub(super) fn head_timer(&self) -> HeadTimer {
        self.head_timer.clone()
    }
}

/// A scanner of the frames of a client.
#[derive(Default)]
pub(super) struct Frames {
    next: Next,
    /// The bytes of the next part that were read so far.
    begun: [u8; PREFACE.len()],
    filled: usize,
    /// Bytes to skip before it.
    skipped: usize,
    goaway_fix: GoawayFix,
    is_narrow: bool,
}

/// The next part to inspect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Preface,
    Head,
    /// A setting, with the number of bytes left in its frame.
    Setting(usize),
    Pong,
    /// The connection is not HTTP/2.
    Nothing,
}

impl Next {
    fn bytes(self) -> usize {
        match self {
            Self::Preface => PREFACE.len(),
            Self::Head => HEAD,
            Self::Setting(_) => SETTING,
            Self::Pong => PING_BYTES,
            Self::Nothing => 0,
        }
    }
}

impl Frames {
    pub(super) fn pass(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() && self.next != Next::Nothing {
            let skipped = self.skipped.min(bytes.len() - at);
            self.skipped -= skipped;
            at += skipped;
            let taken = (self.next.bytes() - self.filled).min(bytes.len() - at);
            self.begun[self.filled..self.filled + taken].copy_from_slice(&bytes[at..at + taken]);
            self.filled += taken;
            at += taken;
            if self.filled == self.next.bytes() {
                self.filled = 0;
                self.next = self.inspect(&mut bytes[..at]);
            }
        }
    }

    /// Inspects the part that ends with these bytes, and returns the next one.
    fn inspect(&mut self, bytes: &mut [u8]) -> Next {
        match self.next {
            Next::Preface if self.begun == *PREFACE => Next::Head,
            Next::Preface | Next::Nothing => Next::Nothing,
            Next::Head => self.inspect_header(bytes),
            Next::Setting(length) => {
                let [a, b, c, d, e, f, ..] = self.begun;
                self.is_narrow |= is_narrow([a, b, c, d, e, f]);
                if length > SETTING { Next::Setting(length - SETTING) } else { Next::Head }
            }
            Next::Pong => {
                self.goaway_fix.pong(&self.begun[..PING_BYTES]);
                Next::Head
            }
        }
    }

    fn inspect_header(&mut self, bytes: &mut [u8]) -> Next {
        let [a, b, c, kind, flags, id @ ..] = self.begun;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]) & (u32::MAX >> 1);
        // A type that came with an earlier read was already passed on and cannot be changed.
        if self.goaway_fix.is_late(kind, id) && bytes.len() >= HEAD - 3 {
            bytes[bytes.len() - (HEAD - 3)] = UNKNOWN;
        }
        match kind {
            // h2 ends the connection for another length.
            SETTINGS if flags & ACK == 0 && length > 0 && length.is_multiple_of(SETTING) => {
                Next::Setting(length)
            }
            PING if flags & ACK != 0 && length == PING_BYTES => Next::Pong,
            _ => {
                self.skipped = length;
                Next::Head
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Inspected<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        self.frames.pass(&mut buffer.filled_mut()[before..]);
        self.head_timer.receive();
        Poll::Ready(if self.frames.is_narrow {
            Err(io::Error::other("the client's flow-control window is smaller than the minimum"))
        } else {
            Ok(())
        })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Inspected<T> {
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

    #[test]
    fn narrow_windows_are_found_however_the_bytes_arrive() {
        let setting =
            |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let is_narrow = |payload: &[u8], flags: u8, read: usize| {
            let mut bytes =
                [&PREFACE[..], &frame(SETTINGS, flags, 0, payload), &frame(1, 4, 1, b"head")]
                    .concat();
            let mut frames = Frames::default();
            bytes.chunks_mut(read).for_each(|read| frames.pass(read));
            assert_eq!(
                (frames.next, frames.skipped, frames.filled),
                (Next::Head, 0, 0),
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
}
