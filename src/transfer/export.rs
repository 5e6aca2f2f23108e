//! Writes the records of a store as JSON lines: a header, a line for each record in key order, an
//! end.

use std::io::{self, Write};

use futures_util::StreamExt as _;

use super::{
    Failure, PROGRAM,
    content::Content,
    line::{End, FORMAT, Header, Line, Time, VERSION},
};
use crate::store::Store;

/// Exports all records, or those of one app, and returns their content. `what` names the output in
/// errors. Errors: [`Failure::Store`], [`Failure::File`].
pub async fn export(
    store: &dyn Store,
    app: Option<&str>,
    now_ms: u64,
    to: &mut (dyn Write + Send),
    what: &str,
) -> Result<Content, Failure> {
    let failed = |source: io::Error| Failure::File { what: what.to_owned(), source };
    let mut snapshot = store.snapshot().await?;
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        revision: snapshot.revision,
        time: Time(now_ms),
        program: PROGRAM.to_owned(),
        app: app.map(str::to_owned),
    };
    to.write_all(Line::Header(header).text().as_bytes()).map_err(failed)?;
    let mut content = Content::default();
    while let Some(page) = snapshot.pages.next().await {
        for entry in page? {
            if let Some(line) = content.add(&entry, app)? {
                to.write_all(line.as_bytes()).map_err(failed)?;
            }
        }
    }
    let end = End { records: content.records(), sha256: content.sha256() };
    to.write_all(Line::End(end).text().as_bytes()).and_then(|()| to.flush()).map_err(failed)?;
    Ok(content)
}
