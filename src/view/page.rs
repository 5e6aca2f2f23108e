//! Where a page of a list is.

/// Where a page of a list starts, and how long it is.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Only ids after this one.
    pub after: Option<&'a str>,
    /// Leave out this many of them.
    pub skip: usize,
    /// At most this many.
    pub size: usize,
}
