//! The RPCs. Each method parses its message into the model, enters the service, and encodes the
//! answer; no rule lives here. The gateway calls the same methods in process, with the caller in
//! the request's extensions as the credentials layer leaves it there.

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

/// All three services of `mute.v1`; cheap to clone.
#[derive(Clone)]
pub struct Api {
    service: Arc<Service>,
}

pub(crate) use parse::{MAX_TEXT_BYTES, grpc_timeout};

type Reply<T> = Result<Response<T>, Status>;

impl Api {
    /// The RPCs of this service.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// Waits for the turn of the next page of a list that is told whole. Errors: those of
    /// `Service::turn`.
    pub async fn turn(&self, caller: &Caller, app: &str) -> Result<(), Status> {
        let (service, caller, app) = (self.service.clone(), caller.clone(), app.to_owned());
        // In a task of its own: an answer that is not read is not asked to go on, and would keep
        // the others from their turns.
        let turn = tokio::spawn(async move { service.turn(&caller, &app).await });
        Ok(turn.await.map_err(|_| Error::internal("the turn of a list was lost"))??)
    }
}

fn open<T>(request: Request<T>) -> (Caller, T) {
    let (_, caller, message) = open_with(request);
    (caller, message)
}

fn open_with<T>(request: Request<T>) -> (MetadataMap, Caller, T) {
    let (metadata, mut extensions, message) = request.into_parts();
    (metadata, extensions.remove().unwrap_or_else(Caller::anonymous), message)
}
