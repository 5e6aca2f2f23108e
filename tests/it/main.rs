//! One integration binary: real sockets, real files, real processes. One file a feature; `harness` starts and stops what they need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod harness;

mod agora;
mod backup;
mod both_doors;
mod certificates;
mod checker;
mod cluster;
mod connections;
mod contract;
mod crash;
mod ctl;
mod disks;
mod embedded;
mod etcd;
mod events;
mod expiry;
mod export;
mod faults;
mod follow;
mod forgetful;
mod idempotency;
mod imkit;
mod issuers;
mod layers;
mod ledger;
mod metrics;
mod min_revision;
mod network;
mod notifications;
mod openapi;
mod operated;
mod power;
mod process;
mod properties;
mod recipients;
mod records;
mod reload;
mod stopping;
mod tenants;
mod tls;
mod traces;
mod user_mutes;
mod watch;
mod web;
