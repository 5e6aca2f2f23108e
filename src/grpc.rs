//! The RPCs. Each method parses its message into the model, calls the service, and encodes the
//! response. The business rules are in the service. The gateway calls the same methods in process,
//! with the caller in the request's extensions, where the credentials layer puts it.

use std::sync::Arc;

use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{auth::credentials::Caller, error::Error, service::Service};

mod directory;
mod encode;
mod mute;
mod parse;
mod read;
pub mod status;
mod token;
mod watch;
mod write;

/// All three services of `mute.v1`. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    service: Arc<Service>,
}

pub(crate) use parse::{MAX_TEXT_BYTES, grpc_timeout};

type Reply<T> = Result<Response<T>, Status>;

impl Api {
    /// The RPCs over this service.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// Waits until the caller may read the next page of a list that is streamed in full. Errors:
    /// those of `Service::wait_for_page_turn`.
    pub async fn wait_for_page_turn(&self, caller: &Caller, app: &str) -> Result<(), Status> {
        let service = self.service.clone();
        let caller = caller.clone();
        let app = app.to_owned();
        // In a task of its own: the stream of a response that the client does not read is not
        // polled, and would block the other callers' turns.
        let turn = tokio::spawn(async move { service.wait_for_page_turn(&caller, &app).await });
        Ok(turn.await.map_err(|_| Error::internal("waiting for a page turn has panicked"))??)
    }
}

fn unpack<T>(request: Request<T>) -> (Caller, T) {
    let (_, caller, message) = unpack_with_metadata(request);
    (caller, message)
}

fn unpack_with_metadata<T>(request: Request<T>) -> (MetadataMap, Caller, T) {
    let (metadata, mut extensions, message) = request.into_parts();
    (metadata, extensions.remove().unwrap_or_else(Caller::anonymous), message)
}
