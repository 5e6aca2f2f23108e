//! Connects to the service and authenticates.

use std::{fs, path::Path, time::Duration};

use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    args::Options,
    failure::{self, Failure},
};
use crate::{
    fetch::{self, peer},
    pem,
    proto::v1::{
        directory_service_client::DirectoryServiceClient, mute_service_client::MuteServiceClient,
    },
};

/// A page of 1,000 events with 100 users each fits.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until an answer begins.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// A ping is sent after this time of silence. A peer that vanished is detected after twice as long.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

pub type Mutes = MuteServiceClient<InterceptedService<Channel, Bearer>>;
pub type Directory = DirectoryServiceClient<InterceptedService<Channel, Bearer>>;

/// The clients of the service, on one connection.
pub struct Clients {
    pub mutes: Mutes,
    pub directory: Directory,
}

/// Adds the token, if there is one, to each call.
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

/// Connects. A call on a broken connection reconnects by itself. Errors: invalid options, or the
/// service is unreachable.
pub async fn connect(options: &Options) -> Result<Clients, Failure> {
    let bearer = Bearer(token(options)?.map(|token| authorization(&token)).transpose()?);
    let endpoint = endpoint(options)?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Failure::Unreachable { addr: options.addr.clone(), error })?;
    let mutes = MuteServiceClient::with_interceptor(channel.clone(), bearer.clone());
    let directory = DirectoryServiceClient::with_interceptor(channel, bearer);
    Ok(Clients {
        mutes: mutes.max_decoding_message_size(MAX_ANSWER_BYTES),
        directory: directory.max_decoding_message_size(MAX_ANSWER_BYTES),
    })
}

/// The failure, or what answers instead of gRPC if that is known.
pub async fn explain(options: &Options, failure: Failure) -> Failure {
    let url = url(&options.addr);
    let wants_tls = url.starts_with("https://");
    match peer::identify(&url, options.ca.as_deref()).await {
        Some(peer) => failure::elsewhere(&url, wants_tls, peer).map_or(failure, Failure::Elsewhere),
        None => failure,
    }
}

fn url(addr: &str) -> String {
    if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") }
}

fn endpoint(options: &Options) -> Result<Endpoint, Failure> {
    let addr = &options.addr;
    let invalid_address = || {
        Failure::Usage(format!(
            "--addr: `{addr}` is not an address; write http://HOST:PORT or https://HOST:PORT"
        ))
    };
    // Without a scheme, the port of http would be a surprise.
    if !addr.contains(':') {
        return Err(invalid_address());
    }
    let endpoint = Endpoint::from_shared(url(addr)).map_err(|_| invalid_address())?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") => endpoint,
        Some("https") => endpoint.tls_config(tls(options)?).map_err(|error| {
            Failure::Usage(format!("--ca, --cert, --key: {}", fetch::describe(&error)))
        })?,
        _ => return Err(invalid_address()),
    };
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(RESPONSE_TIMEOUT);
    Ok(endpoint
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL)
        .keep_alive_while_idle(true))
}

fn tls(options: &Options) -> Result<ClientTlsConfig, Failure> {
    let missing_ca = || {
        Failure::Usage(
            "https needs --ca; for public authorities, it is a file such as /etc/ssl/certs/ca-certificates.crt"
                .to_owned(),
        )
    };
    let ca = options.ca.as_ref().ok_or_else(missing_ca)?;
    pem::certificates(ca).map_err(|error| Failure::Usage(format!("--ca: {error}")))?;
    let ca = read("--ca", ca)?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    match (&options.cert, &options.key) {
        (None, None) => Ok(tls),
        (Some(cert), Some(key)) => {
            Ok(tls.identity(Identity::from_pem(read("--cert", cert)?, read("--key", key)?)))
        }
        _ => {
            Err(Failure::Usage("--cert and --key need each other: give both or neither".to_owned()))
        }
    }
}

fn read(option: &str, file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("{option}: {}: {error}", file.display())))
}

fn token(options: &Options) -> Result<Option<String>, Failure> {
    match &options.token_file {
        Some(file) => read("--token-file", file).map(Some),
        None => Ok(options.token.clone()),
    }
}

fn authorization(token: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let value = MetadataValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| {
        Failure::Usage(
            "the token contains characters that a token cannot have; \
                 check --token, --token-file or MUTE_TOKEN"
                .to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}
