//! Who may speak in this room, until when and why; and who wants no push from it.
//!
//! ```text
//! cli                             the commands
//! app                             the life of the process
//! config  ctl                     settings | a person, a caller like any other
//! server  dev                     listeners and connections | what makes the documents' examples work
//! gateway                         REST: vendor JSON <-> RPC message, and who calls, within which bounds; nothing else
//! grpc                            one method an RPC: parse the message into the model, call, encode the answer
//! service  transfer               the rules: who may, what is checked, what is committed | backups and exports
//! watch  sweep                    tells every change | frees what has ended
//! view                            answers every read
//! store  auth                     commit, snapshot, change feed, history | from a credential to who calls
//! model  limits  telemetry  fetch ids, times, records | what callers may have | logs, metrics, traces | HTTP, to others
//! error  clock  files  pem  proto  visible
//! ```
//!
//! A module reaches those on the lines below its own only; `tests/it/layers.rs` holds that.
//!
//! **A write** (mute two members over REST): [`gateway`] turns path and body into a message;
//! [`grpc`] parses ids and duration; [`service`] checks the principal, the room and the clients
//! against the view and builds a batch; [`store`] makes it durable and puts it on the change feed;
//! [`view`] applies it; the service, which waited for the view to reach that revision, answers;
//! [`gateway`] writes the vendor's envelope. Whoever asks after that answer sees the mute.
//!
//! **A read** (may this user speak): the layer of [`auth::credentials`], [`grpc`], [`view`]. No
//! disk, no lock across an await.
//!
//! **A watch**: [`watch`] tells a caller the commits from where it asks on, out of the store's
//! history and then live, a step behind the view.
//!
//! Every call passes the door of its own protocol, [`grpc`] or [`gateway`], within the bounds of
//! [`limits`]; [`server`] has the connections they come over. [`files`] tells of certificates and
//! credentials that have changed, [`pem`] reads certificates, and [`fetch`] gets over HTTP what
//! others have.
//!
//! What leaves the house and comes into it as files, [`transfer`] reads and writes: backups and
//! exports, over the store alone.
//!
//! What has ended has no effect from that very millisecond, by the reader's clock; [`sweep`] only
//! frees its space. [`app`] is the life of the process, [`config`] its settings, [`cli`] its
//! commands, [`ctl`] a person's hands, a caller like any other, [`dev`] what makes the documents'
//! examples work. [`visible`] shows people what others wrote.

pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod ctl;
pub mod dev;
pub mod error;
pub mod fetch;
pub mod files;
pub mod gateway;
pub mod grpc;
pub mod limits;
pub mod model;
pub mod pem;
pub mod proto;
pub mod server;
pub mod service;
pub mod store;
pub mod sweep;
pub mod telemetry;
pub mod transfer;
pub mod view;
pub mod visible;
pub mod watch;
