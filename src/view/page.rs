//! A page of a list.

/// Where a page of a list starts, and its size.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Only ids after this one.
    pub after: Option<&'a str>,
    /// Skip this many of them.
    pub skip: usize,
    /// At most this many.
    pub size: usize,
}
