//! The command line: what can be asked of the program, and its exit codes: 0, 64 for usage and
//! configuration, 1 for a failure.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use rustix::fs::Mode;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    app::{App, Failure},
    auth::{
        apps::{AppConfig, Apps},
        credentials::Access,
        secret::KeyHash,
        token::{TokenKeys, Unverified},
    },
    clock::Clock,
    config::{Config, Settings},
    ctl, dev,
    files::FileWatcher,
    server::tls::Tls,
    service::MAX_TTL_S,
    telemetry::{self, traces::Traces},
    visible::shown,
};

mod output;
mod progress;
mod transfer;

use output::{complain, say};

const USAGE: u8 = 64;
const FAILURE: u8 = 1;
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (revision ",
    env!("MUTE_BUILD_REVISION"),
    ", built ",
    env!("MUTE_BUILD_DATE"),
    ")"
);

#[derive(Parser)]
#[command(
    name = "mute-service",
    version = VERSION,
    about,
    after_help = "Without a command it is `serve --dev`: the embedded store in ./data, loopback only, with the documents' own apps, users and rooms.\n\
                  MUTE_LOG sets the log level, such as `debug` or `mute_service=debug,h2=warn`.\n\
                  Exit codes: 0, 64 for usage and configuration, 1 for a failure."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve gRPC, REST and admin until SIGTERM or SIGINT
    Serve(Serve),
    /// Check a configuration, tell everything that is wrong with it, and start nothing
    CheckConfig(Serve),
    /// Mint an app token, or a user token, of a configured app
    Token(Token),
    /// Print the hash of a key, to be put in the configuration; the key is read from standard input
    /// where it is not given
    HashKey {
        /// A random key of at least 32 characters; what is given here can be seen by others on the
        /// machine
        key: Option<String>,
    },
    /// Write the records of a stopped service as JSON lines, one record each
    ///
    /// A header, a line for each record, and an end with their number and SHA-256, so that a file
    /// that was cut is found out. Times are RFC 3339; without "expire" a mark is for good. It can
    /// be imported into any store.
    Export(transfer::Export),
    /// Put an export into the store of a stopped service
    ///
    /// All of the file is checked first, and where anything is wrong with it, it is told by its
    /// line and nothing is changed. Records that are there already are left alone, so an import
    /// that was interrupted is simply done again. Takes some 200 bytes of memory for each record. A
    /// file made elsewhere needs a header and an end, whose "sha256" is that of the lines between:
    /// `sed '1d;$d' FILE | sha256sum`. In an app that folds users' case, ids are folded where
    /// --config names its configuration; without it, an id of an app org#app has to be in lower
    /// case.
    Import(transfer::Import),
    /// Read everything, check every checksum, and print the number of records of each kind and
    /// their hash
    ///
    /// The hash is of the records alone: two stores, or a store and a backup, that have the same
    /// records have the same hash, whatever engine keeps them and whatever their revisions are.
    Verify(transfer::Verify),
    /// Write one file with all records of one revision, of a running service or a stopped one
    ///
    /// A running service goes on meanwhile. The file is read back and checked before it gets its
    /// name.
    Backup(transfer::Backup),
    /// Put a backup back, into an empty directory of an embedded store
    ///
    /// The backup is checked before anything is written, and the directory is a store only when all
    /// of it is on the disk. Records keep their revisions; new ones go on above all that the lost
    /// store can have given out, so that whoever followed its changes is told to begin anew. The
    /// history of events is not in a backup.
    Restore(transfer::Restore),
    /// Mute, ban, check and watch by hand, over gRPC
    Ctl(ctl::Ctl),
    /// Print what makes a shell complete the commands, to be put where it looks for it
    #[command(
        after_help = "Example: mute-service completions bash > ~/.local/share/bash-completion/completions/mute-service"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct Source {
    /// The configuration: settings, [[apps]] and [[services]], in TOML
    #[arg(long, value_name = "FILE", env = "MUTE_CONFIG")]
    config: Option<PathBuf>,
    /// Add apps, keys and a directory that make the documents' examples work; loopback only
    #[arg(long, env = "MUTE_DEV", value_parser = clap::builder::BoolishValueParser::new())]
    dev: bool,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args)]
struct Token {
    #[command(flatten)]
    source: Source,
    /// Key of the app, such as org#app
    #[arg(long)]
    app: String,
    /// Mint a token of this user; without it, one of the app
    #[arg(long)]
    user: Option<String>,
    /// How long it is good for; 0, for an app token, is without end
    #[arg(long, value_name = "SECONDS", default_value_t = 24 * 3_600, value_parser = clap::value_parser!(u64).range(..=MAX_TTL_S))]
    ttl: u64,
}

/// Runs the program with the arguments and the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Whatever is written, a store, its backup, an export, may hold everything: it is for its owner
    // alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let arguments: Vec<_> = std::env::args_os().collect();
    let parsed = if arguments.len() > 1 {
        Cli::try_parse_from(arguments)
    } else {
        Cli::try_parse_from(["mute-service", "serve", "--dev"])
    };
    match parsed {
        Ok(cli) => run(cli.command),
        Err(error) => {
            // A closed pipe is nobody to tell of it.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            }
        }
    }
}

fn run(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Serve(Serve { source, settings }) => serve(&source, settings),
        Command::CheckConfig(Serve { source, settings }) => check_config(&source, settings),
        Command::Token(token) => mint(&token),
        Command::HashKey { key } => hash_key(key),
        Command::Export(export) => transfer::export(export),
        Command::Import(import) => transfer::import(import),
        Command::Verify(verify) => transfer::verify(verify),
        Command::Backup(backup) => transfer::backup(backup),
        Command::Restore(restore) => transfer::restore(restore),
        Command::Ctl(ctl) => return ctl::run(ctl),
        Command::Completions { shell } => {
            completions(shell);
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if telemetry::logs_are_json() {
                tracing::error!(error = %failure, "the service has failed");
            } else {
                complain(&failure.to_string());
            }
            ExitCode::from(if matches!(failure, Failure::Config(_)) { USAGE } else { FAILURE })
        }
    }
}

fn serve(source: &Source, settings: Settings) -> Result<(), Failure> {
    // From before it is read, so that what changes meanwhile is read again.
    let files = FileWatcher::new(source.config.iter().cloned().collect());
    let config = load(source, settings.clone())?;
    telemetry::init_logs(config.log_format);
    // Each connection is an open file. Where the system gives no more, there is what there was.
    let open_files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    tracing::debug!(open_files, "as many files may be open");
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::Serve(error.into()))?;
    runtime.block_on(async {
        let mut stop = pin!(stop_signal().map_err(|error| Failure::Serve(error.into()))?);
        let hangups = signal(SignalKind::hangup()).map_err(|error| Failure::Serve(error.into()))?;
        let traces = config
            .otlp_endpoint
            .as_ref()
            .map(|endpoint| Traces::start(endpoint, config.trace_share))
            .transpose();
        let traces = traces.map_err(|wrong| Failure::Config(vec![wrong]))?;
        let app = tokio::select! {
            app = App::start(&config, Clock::system()) => app?,
            () = &mut stop => return Ok(()),
        };
        if config.dev {
            let (app_token, user_token) =
                app.dev_tokens().map_err(|error| Failure::Serve(error.into()))?;
            say(&dev::welcome(app.addresses.rest, app.addresses.grpc, &app_token, &user_token));
        }
        let access = app.service.access.clone();
        let ended = tokio::select! {
            ended = app.run(stop) => ended,
            () = watch_files(source, files, &settings, &access, hangups) => Ok(()),
        };
        if let Some(traces) = traces {
            traces.end().await;
        }
        ended
    })
}

/// Reads again who may call, when the file has changed and on SIGHUP: all of it, or nothing where
/// something is wrong. Never ends by itself.
async fn watch_files(
    source: &Source,
    mut files: FileWatcher,
    settings: &Settings,
    access: &Access,
    mut hangups: Signal,
) {
    loop {
        tokio::select! {
            () = files.changed() => {}
            Some(()) = hangups.recv() => {}
        }
        let read = Config::load(settings.clone(), source.config.as_deref(), source.dev);
        match read.and_then(|config| Ok((config.credentials(&Clock::system())?, config))) {
            Ok((credentials, config)) => {
                access.replace(credentials).await;
                let (apps, services, issuers) =
                    (config.apps.len(), config.services.len(), config.issuers.len());
                tracing::info!(
                    apps,
                    services,
                    issuers,
                    "who may call was read again; other settings are those of the start"
                );
            }
            Err(wrong) => tracing::error!(
                wrong = wrong.join("; "),
                "who may call was not read again; what was known goes on"
            ),
        }
    }
}

/// Done when the process is told to stop.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn check_config(source: &Source, settings: Settings) -> Result<(), Failure> {
    let config = load(source, settings)?;
    config.tls.map(Tls::new).transpose().map_err(|wrong| Failure::Config(vec![wrong]))?;
    let (apps, services, issuers) =
        (config.apps.len(), config.services.len(), config.issuers.len());
    say(&format!(
        "The configuration is good: {apps} apps, {services} services, {issuers} issuers.\n"
    ));
    let known = Apps::new(&config.apps).map_err(Failure::Config)?;
    config.apps.iter().for_each(|app| {
        say(&changing(app, known.get(&app.key).ok().and_then(|app| app.tokens.as_ref())))
    });
    let two = config.services.iter().filter(|service| service.token_hash.len() > 1);
    two.for_each(|service| {
        say(&format!("service {}: two of token_hash are good\n", shown(&service.name)))
    });
    Ok(())
}

/// Which keys of an app are about to take the place of others, and which tokens are refused.
fn changing(app: &AppConfig, tokens: Option<&TokenKeys>) -> String {
    let mut said = Vec::new();
    said.extend(
        app.hashes()
            .iter()
            .filter(|(_, hashes)| hashes.len() > 1)
            .map(|(field, _)| format!("two of {field} are good")),
    );
    if let Some([new, old]) = tokens.map(|tokens| tokens.signers().collect::<Vec<_>>()).as_deref() {
        said.push(format!("token_secret {new} signs, and what {old} has signed is good"));
    }
    said.extend(
        app.tokens_not_before.iter().map(|time| format!("tokens of before {time} are refused")),
    );
    said.extend(
        (!app.revoked_tokens.is_empty())
            .then(|| format!("{} tokens are revoked", app.revoked_tokens.len())),
    );
    said.iter().map(|what| format!("app {}: {what}\n", app.key)).collect()
}

fn mint(token: &Token) -> Result<(), Failure> {
    let wrong = |what: &str| Failure::Config(vec![what.to_owned()]);
    let config = load(&token.source, Settings::default())?;
    let apps = Apps::new(&config.apps).map_err(Failure::Config)?;
    let app = apps.get(&token.app).map_err(|_| {
        wrong("--app: no such app is configured; give its key, and --config or --dev")
    })?;
    let keys =
        app.tokens.as_ref().ok_or_else(|| wrong("the app has no token_secret to sign with"))?;
    let now_ms = Clock::system().now_ms();
    let minted = match &token.user {
        Some(_) if token.ttl == 0 => return Err(wrong("--ttl: a user token has an end")),
        Some(user) => {
            let user = app.user(user.clone()).map_err(|error| wrong(&error.message))?;
            keys.mint_user(
                &app.key,
                user.as_str(),
                now_ms,
                (now_ms / 1_000).saturating_add(token.ttl),
            )
        }
        None => keys.mint_app(&app.key, now_ms, (token.ttl != 0).then_some(token.ttl)),
    };
    let minted = minted.map_err(|error| Failure::Serve(error.into()))?;
    say(&format!("{minted}\n"));
    let facts = Unverified::read(&minted).map_err(|error| Failure::Serve(error.into()))?;
    let end = facts.ends_ms().map_or_else(
        || "without end".to_owned(),
        |end_ms| format!("good until {}", moment(end_ms)),
    );
    let (id, signer) =
        (facts.id().unwrap_or_default(), facts.signer.as_deref().unwrap_or_default());
    complain(&format!(
        "{end}; its id, to revoke it by (revoked_tokens), is {id}; signed with the token_secret {signer}"
    ));
    Ok(())
}

/// RFC 3339, in UTC.
fn moment(time_ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(time_ms)).to_string()
}

fn hash_key(key: Option<String>) -> Result<(), Failure> {
    let key = match key {
        Some(key) => key,
        None => read_key()?,
    };
    if key.len() < 16 {
        let what = "the key is shorter than 16 characters, and would be guessed; take a random one, such as `openssl rand -hex 32` makes";
        return Err(Failure::Config(vec![what.to_owned()]));
    }
    if key.len() < 32 {
        complain(
            "warning: the key is shorter than 32 characters; take a random one, such as `openssl rand -hex 32` makes",
        );
    }
    say(&format!("{}\n", KeyHash::of(&key)));
    Ok(())
}

fn completions(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mute-service", &mut script);
    say(&String::from_utf8_lossy(&script));
}

fn read_key() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        complain("The key, then Enter:");
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|source| Failure::File { what: "standard input".to_owned(), source })?;
    let key = line.trim_end_matches(['\r', '\n']);
    if key.is_empty() {
        Err(Failure::Config(vec!["no key was given".to_owned()]))
    } else {
        Ok(key.to_owned())
    }
}

fn load(source: &Source, settings: Settings) -> Result<Config, Failure> {
    Config::load(settings, source.config.as_deref(), source.dev).map_err(Failure::Config)
}
