//! Who may speak in this room, until when and why; and who wants no push from it.
//!
//! # The house
//!
//! ```text
//! cli                            the commands
//! app                            the life of the process
//! config  ctl                    settings | the operator's client
//! server  dev                    listeners, connections | the documents' examples
//! gateway                        REST: vendor JSON <-> RPC message, caller, bounds; nothing else
//! grpc                           one method an RPC: parse into the model, call, encode the answer
//! service  transfer              the rules: who may do what | backups and exports
//! watch  sweep                   the change feed of callers | removes expired records
//! view                           the index in memory that answers every read
//! store  auth                    commits, snapshots, feed, history | from credential to principal
//! model  limits  telemetry  fetch  ids, times, records | bounds | logs, metrics, traces | HTTP
//! error  clock  counted  files  pem  proto  visible
//! ```
//!
//! A module uses only modules on the lines below its own; `tests/it/layers.rs` enforces that.
//!
//! **A write** (mute two members over REST): [`gateway`] turns path and body into a message.
//! [`grpc`] parses ids and duration. [`service`] checks the principal, the room and the clients
//! against the view and plans a batch, with preconditions on what the plan relies on. [`store`]
//! makes the batch durable and puts the commit on the change feed. [`view`] applies the commit. The
//! service waits until the view has reached the commit's revision and answers; [`gateway`] writes
//! the vendor's envelope. A read that starts after that answer sees the mute.
//!
//! **A read** (may this user speak): the credentials layer of [`auth::credentials`] finds the
//! principal, [`grpc`] parses three ids, [`view`] looks up the user, then the room, and decides by
//! the clock of that moment. No disk, no queue, no lock across an await.
//!
//! **A watch**: [`watch`] sends a caller the commits after a revision: first from the store's
//! history, then live, always one step behind the view.
//!
//! Each protocol has one entrance, [`grpc`] or [`gateway`], and every call stays within the bounds
//! of [`limits`]. [`server`] owns the connections. [`files`] reports when certificates or
//! credentials change on disk, and writes files that a power cut leaves whole. [`pem`] reads
//! certificates, [`fetch`] downloads over HTTP, and [`visible`] escapes what others wrote before a
//! person reads it. [`counted`] writes a number with its noun. [`transfer`] reads and writes
//! backups and exports, over the store alone.
//! [`ctl`] is a client like any other.
//!
//! A mute has no effect from the millisecond of its `expire_time`, by the reader's clock; [`sweep`]
//! only removes the record afterwards and emits its EXPIRED event.
//!
//! # The words
//!
//! | word | meaning |
//! | --- | --- |
//! | app | a tenant; nothing spans two apps |
//! | member mute, user mute | may not speak in one room; in any room of the app |
//! | room ban, allow list | only owner, admins and the allow list may speak in a room |
//! | notification mute | a user wants no push from a room |
//! | directory | the registered rooms and clients of an app: `strict` or `open` |
//! | principal | who calls: an app admin, a user, a service |
//! | record | one key with its value in the store |
//! | batch, commit, revision | planned changes; what was made durable; its number |
//! | precondition | the revision a record must have for a batch to be committed |
//! | change feed | every commit once, in order, after a revision |
//! | view | all records in memory, at the applied revision |
//! | memtable, flusher | commits not yet in the tree; the thread that moves them there |
//! | segment | a stretch of history in the cluster, which is dropped as a whole |
//! | tombstone | a record that ends everything its room or client had before |
//! | idempotency record | the first answer to a `request_id`, for its repeats |
//! | tick | a replica's periodic write, by which it knows that its feed is complete |
//! | sweep | the removal of records whose time has ended |
//! | permit | what a call holds of a limit, returned when it is dropped |

pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counted;
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
