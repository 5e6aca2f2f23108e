//! The connection: where, and as whom.

use std::{fs, time::Duration};

use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{args::Options, failure::Failure};
use crate::proto::v1::mute_service_client::MuteServiceClient;

/// A page of 1,000 events that name 100 users each has its place.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// Until an answer begins.
const ANSWER: Duration = Duration::from_secs(30);
/// A peer that has gone without a word is noticed in so long, twice.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

pub type Mutes = MuteServiceClient<InterceptedService<Channel, Bearer>>;

/// Sends the token, where there is one, with each call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connection that stands; it stands up again by itself when a call finds it broken.
pub async fn connect(options: &Options) -> Result<Mutes, Failure> {
    let bearer = Bearer(token(options)?.map(|token| header(&token)).transpose()?);
    let endpoint = endpoint(&options.addr)?;
    let channel = endpoint.connect().await.map_err(|error| Failure::Unreachable { addr: options.addr.clone(), error })?;
    Ok(MuteServiceClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_ANSWER_BYTES))
}

fn endpoint(addr: &str) -> Result<Endpoint, Failure> {
    let url = if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") };
    let wrong = || Failure::Usage(format!("--addr: `{addr}` is no address; write http://HOST:PORT"));
    let endpoint = Endpoint::from_shared(url).map_err(|_| wrong())?;
    if endpoint.uri().scheme_str() != Some("http") {
        return Err(wrong());
    }
    let endpoint = endpoint.connect_timeout(CONNECT).timeout(ANSWER);
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true))
}

fn token(options: &Options) -> Result<Option<String>, Failure> {
    match &options.token_file {
        Some(file) => {
            let text = fs::read_to_string(file);
            text.map(Some).map_err(|error| Failure::Usage(format!("--token-file: {}: {error}", file.display())))
        }
        None => Ok(options.token.clone()),
    }
}

fn header(token: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let value = MetadataValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| Failure::Usage("the token holds what no token holds".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
