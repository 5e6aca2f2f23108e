//! The RPCs. Each method parses its message into the model, enters the service, and encodes the answer; no rule lives here. The gateway calls
//! the same methods in process, with the caller in the request's extensions as the credentials layer leaves it there.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::{auth::credentials::Caller, service::Service};

mod directory;
mod encode;
mod mute;
mod parse;
pub mod status;
mod token;

/// All three services of `mute.v1`; cheap to clone.
#[derive(Clone)]
pub struct Api {
    service: Arc<Service>,
}

type Reply<T> = Result<Response<T>, Status>;

impl Api {
    /// The RPCs of this service.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

fn open<T>(mut request: Request<T>) -> (Caller, T) {
    let caller = request.extensions_mut().remove().unwrap_or_else(Caller::nobody);
    (caller, request.into_inner())
}
