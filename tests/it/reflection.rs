//! Reflection, as grpcurl, Postman and grpcui ask for it: several names on one stream.

use std::collections::HashSet;

use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::Code;

use crate::harness::{Server, reason};

/// The test in one version of the protocol.
macro_rules! version {
    ($version:ident) => {
        mod $version {
            use tonic::{codec::CompressionEncoding, transport::Channel};
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };

            use super::*;

            /// The answers to these requests on one stream.
            async fn ask(channel: Channel, asked: Vec<MessageRequest>) -> Vec<MessageResponse> {
                let request = |message_request| ServerReflectionRequest {
                    message_request: Some(message_request),
                    ..Default::default()
                };
                let requests: Vec<_> = asked.into_iter().map(request).collect();
                let mut client =
                    ServerReflectionClient::new(channel).send_compressed(CompressionEncoding::Gzip);
                let requests = futures_util::stream::iter(requests);
                let responses = client.server_reflection_info(requests).await.unwrap();
                let mut responses = responses.into_inner();
                let mut answers = Vec::new();
                while let Some(response) = responses.message().await.unwrap() {
                    answers.extend(response.message_response);
                }
                answers
            }

            #[tokio::test]
            async fn a_request_that_is_too_large_says_so() {
                let server = Server::start().await;
                let symbol = MessageRequest::FileContainingSymbol("x".repeat(5 << 10));
                let request =
                    ServerReflectionRequest { message_request: Some(symbol), ..Default::default() };
                let mut client = ServerReflectionClient::new(server.channel().await);
                let responses = client
                    .server_reflection_info(futures_util::stream::iter([request]))
                    .await
                    .unwrap();
                let status = responses.into_inner().message().await.unwrap_err();
                let expected = (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".to_owned());
                assert_eq!((status.code(), reason(&status)), expected);
            }

            fn files(answer: &MessageResponse) -> Vec<FileDescriptorProto> {
                let MessageResponse::FileDescriptorResponse(files) = answer else {
                    panic!("{answer:?}")
                };
                let files = files.file_descriptor_proto.iter();
                files.map(|file| FileDescriptorProto::decode(&**file).unwrap()).collect()
            }

            #[tokio::test]
            async fn an_unknown_name_is_an_error_response_and_the_stream_goes_on() {
                let server = Server::start().await;
                let known = "mute.v1.MuteService";
                let symbols = ["mute.v1.Nothing", known, "google.rpc.Nothing", known];
                let mut asked: Vec<_> = symbols
                    .map(|symbol| MessageRequest::FileContainingSymbol(symbol.into()))
                    .into();
                asked.push(MessageRequest::FileByFilename("nothing.proto".into()));
                let answers = ask(server.channel().await, asked).await;
                let mut errors = Vec::new();
                for (index, answer) in answers.iter().enumerate() {
                    if let MessageResponse::ErrorResponse(error) = answer {
                        errors.push((index, error.error_code));
                    }
                }
                let not_found = i32::from(Code::NotFound);
                assert_eq!(errors, [(0, not_found), (2, not_found), (4, not_found)]);
                assert_eq!(answers.len(), 5);
            }

            #[tokio::test]
            async fn the_details_of_errors_are_known_with_all_they_import() {
                let server = Server::start().await;
                let details = ["Status", "ErrorInfo", "RetryInfo", "BadRequest"]
                    .map(|name| MessageRequest::FileContainingSymbol(format!("google.rpc.{name}")));
                let services = ["mute.v1.DirectoryService", "grpc.health.v1.Health"]
                    .map(|name| MessageRequest::FileContainingSymbol(name.to_owned()));
                let asked = details.into_iter().chain(services).collect();
                let mut answers = ask(server.channel().await, asked).await;
                let mut known = HashSet::new();
                while let Some(answer) = answers.pop() {
                    for file in files(&answer) {
                        known.insert(file.name().to_owned());
                        let imports = file.dependency.into_iter();
                        let imports = imports.filter(|name| known.insert(name.clone()));
                        let asked = imports.map(MessageRequest::FileByFilename).collect();
                        answers.extend(ask(server.channel().await, asked).await);
                    }
                }
                assert!(
                    known.iter().any(|name| name.ends_with("error_details.proto")),
                    "{known:?}"
                );
            }
        }
    };
}

version!(v1);
version!(v1alpha);
