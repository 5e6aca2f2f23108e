//! Reflection, with its errors as the protocol has them. `tonic-reflection` ends the stream with a
//! status at the first name that it does not know, and a client that asks for several names gets no
//! answer to the rest. Here each request is asked of it alone, and a refusal becomes an
//! `error_response`.

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use super::message::{self, HEALTH};

/// tonic says OUT_OF_RANGE of a message that is too large, which here means *list again*.
fn refusal(status: Status) -> Status {
    if status.code() == Code::OutOfRange { message::too_large(HEALTH) } else { status }
}

/// Reflection in one version of its protocol. Both have the same messages.
macro_rules! version {
    ($version:ident) => {
        pub(super) mod $version {
            use tonic_reflection::{
                pb::$version::{
                    ErrorResponse, ServerReflectionRequest, ServerReflectionResponse,
                    server_reflection_client::ServerReflectionClient,
                    server_reflection_response::MessageResponse,
                },
                server::$version::{ServerReflection, ServerReflectionServer},
            };

            use super::*;

            /// Serves what this service knows.
            pub(in super::super) fn server<T: ServerReflection>(
                service: ServerReflectionServer<T>,
            ) -> ServerReflectionServer<impl ServerReflection> {
                ServerReflectionServer::new(Reflection(service))
            }

            struct Reflection<T>(ServerReflectionServer<T>);

            #[async_trait]
            impl<T: ServerReflection> ServerReflection for Reflection<T> {
                type ServerReflectionInfoStream =
                    BoxStream<'static, Result<ServerReflectionResponse, Status>>;

                async fn server_reflection_info(
                    &self,
                    requests: Request<Streaming<ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    let service = self.0.clone();
                    let responses = requests.into_inner().then(move |request| {
                        let service = service.clone();
                        async move { Ok(answer(service, request.map_err(refusal)?).await) }
                    });
                    Ok(Response::new(responses.boxed()))
                }
            }

            async fn answer<T: ServerReflection>(
                service: ServerReflectionServer<T>,
                request: ServerReflectionRequest,
            ) -> ServerReflectionResponse {
                ask(service, request.clone()).await.unwrap_or_else(|status| {
                    ServerReflectionResponse {
                        valid_host: request.host.clone(),
                        original_request: Some(request),
                        message_response: Some(MessageResponse::ErrorResponse(ErrorResponse {
                            error_code: status.code().into(),
                            error_message: status.message().to_owned(),
                        })),
                    }
                })
            }

            async fn ask<T: ServerReflection>(
                service: ServerReflectionServer<T>,
                request: ServerReflectionRequest,
            ) -> Result<ServerReflectionResponse, Status> {
                let request = stream::iter([request]);
                let responses =
                    ServerReflectionClient::new(service).server_reflection_info(request).await?;
                let response = responses.into_inner().message().await?;
                response.ok_or_else(|| Status::internal("reflection has not answered"))
            }
        }
    };
}

version!(v1);
version!(v1alpha);
