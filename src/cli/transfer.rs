//! The commands `export`, `import`, `verify`, `backup` and `restore`. Each opens the store itself,
//! so no service may run on it; only `backup --from` asks a running service.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter},
    path::{Path, PathBuf},
};

use clap::Args;
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::{
    output::{complain, say},
    progress::{self, bytes_read, bytes_written, records_read},
};
use crate::{
    app::Failure,
    clock::Clock,
    config::{Config, EtcdSettings, Settings},
    counted::counted,
    files::durable::DurableFile,
    model::AppKey,
    store::{Engine, Location, Memory, Store, exists},
    telemetry,
    transfer::{
        self, backup,
        content::Content,
        export, fetch,
        fold::Folds,
        import::{self, Incoming},
        merge::{MergePlan, Mode},
    },
};

/// The options that name a store.
#[derive(Args)]
struct StoreOptions {
    /// Storage engine [default: sled]
    #[arg(long, value_enum, env = "MUTE_STORE")]
    store: Option<Engine>,
    /// Directory of an embedded store; the service that uses it must be stopped
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    etcd: EtcdSettings,
}

impl StoreOptions {
    /// None if the options name no store.
    fn optional_location(self) -> Result<Option<Location>, Failure> {
        Ok(match self.store.unwrap_or_default() {
            Engine::Sled => {
                self.data_dir.map(|path| Location::Directory { path, memory: Memory::default() })
            }
            Engine::Etcd => Some(Location::Cluster(self.etcd.cluster().map_err(Failure::Config)?)),
        })
    }

    fn location(self) -> Result<Location, Failure> {
        self.optional_location()?.ok_or_else(|| {
            usage("name a store: --data-dir DIR, or --store etcd --etcd-endpoints URL")
        })
    }
}

#[derive(Args)]
pub(super) struct Export {
    #[command(flatten)]
    store: StoreOptions,
    /// File to write; it appears only when complete [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Export only the records of this app, such as org#app
    #[arg(long)]
    app: Option<String>,
}

#[derive(Args)]
pub(super) struct Import {
    #[command(flatten)]
    store: StoreOptions,
    /// What to do with records of the store that the file lacks: `merge` keeps them, `replace`
    /// removes them (only those of the app, for an export of one app)
    #[arg(long, value_enum, default_value = "merge")]
    mode: Mode,
    /// Check the file and print what would change, without changing anything
    #[arg(long)]
    dry_run: bool,
    /// Configuration of the service: user ids of its apps with case-insensitive user ids are
    /// converted to lower case
    #[arg(long, value_name = "FILE", env = "MUTE_CONFIG")]
    config: Option<PathBuf>,
    /// Export to read, or - for standard input
    file: PathBuf,
}

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    store: StoreOptions,
    /// Backup to verify; overrides the options that name a store
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Backup {
    /// Admin listener of a running service, such as http://127.0.0.1:9090; overrides the options
    /// that name a store
    #[arg(long, value_name = "URL", requires = "token")]
    from: Option<String>,
    /// Token of an internal service with the scope "admin" and the apps ["*"]; other users of the
    /// machine can see arguments, so prefer the variable
    #[arg(long, env = "MUTE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    store: StoreOptions,
    /// File to write; it appears, or replaces an older one, only when complete
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
pub(super) struct Restore {
    /// Empty or new directory; to restore a cluster, use etcd's own snapshots, or `import`
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    data_dir: PathBuf,
    /// Backup to restore
    file: PathBuf,
}

pub(super) fn export(command: Export) -> Result<(), Failure> {
    let Export { store, output, app } = command;
    if let Some(Err(error)) = app.clone().map(AppKey::parse) {
        return Err(usage(&format!("--app: {}", error.message)));
    }
    let location = store.location()?;
    run(async {
        let store = transfer::open(&location, false).await?;
        let now_ms = Clock::system().now_ms();
        let content = match &output {
            // Without progress, which would be among the records where both are the same terminal.
            None => {
                let mut to = BufWriter::new(io::stdout());
                export::export(&*store, app.as_deref(), now_ms, &mut to, "standard output").await
            }
            Some(path) => export_to_file(&*store, app.as_deref(), now_ms, path).await,
        };
        store.close().await?;
        let content = content?;
        let records = counted(content.records(), "record");
        complain(&format!("exported {records}; sha256 {}", content.sha256()));
        Ok(())
    })
}

async fn export_to_file(
    store: &dyn Store,
    app: Option<&str>,
    now_ms: u64,
    path: &Path,
) -> Result<Content, transfer::Failure> {
    let failed = |error| transfer::Failure::file(path, error);
    let mut file = DurableFile::create(path).map_err(failed)?;
    let mut to = bytes_written().wrap_write(&mut file);
    let content = export::export(store, app, now_ms, &mut to, &path.display().to_string()).await?;
    drop(to);
    file.commit().map_err(failed)?;
    Ok(content)
}

pub(super) fn import(command: Import) -> Result<(), Failure> {
    let Import { store, mode, dry_run, config, file } = command;
    let location = store.location()?;
    let apps = config.map(|file| {
        Config::load(Settings::default(), Some(&file), false).map(|config| config.apps)
    });
    let folds =
        apps.transpose().map_err(Failure::Config)?.map(|apps| Folds::of(&apps)).unwrap_or_default();
    let incoming = read_export(&file, folds)?;
    run(async {
        // A dry run does not create a store.
        let store = match !dry_run || exists(&location).await? {
            true => Some(transfer::open(&location, true).await?),
            false => None,
        };
        let summary = merge(store.as_deref(), incoming, mode, dry_run).await;
        if let Some(store) = store {
            store.close().await?;
        }
        say(&summary?)
    })
}

async fn merge(
    store: Option<&dyn Store>,
    incoming: Incoming,
    mode: Mode,
    dry_run: bool,
) -> Result<String, Failure> {
    let snapshot = match store {
        Some(store) => Some(store.snapshot().await?),
        None => None,
    };
    let plan = MergePlan::of(incoming, snapshot, mode).await?;
    let summary = format!(
        "{} new, {} changed, {} removed, {} unchanged\n",
        plan.new, plan.changed, plan.removed, plan.same
    );
    let Some(store) = store.filter(|_| !dry_run) else {
        return Ok(format!("Would import: {summary}"));
    };
    let mut progress = progress::Import::new(plan.changes());
    plan.commit(store, Clock::system().now_ms(), |done| progress.report(done)).await?;
    Ok(format!("Imported: {summary}"))
}

fn read_export(file: &Path, folds: Folds) -> Result<Incoming, Failure> {
    let is_stdin = file == Path::new("-");
    let what = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
    let failed = |source| transfer::Failure::File { what: what.clone(), source };
    let mut from: Box<dyn BufRead> = match is_stdin {
        true => Box::new(io::stdin().lock()),
        false => {
            let opened = File::open(file).map_err(failed)?;
            Box::new(BufReader::new(bytes_read(file).wrap_read(opened)))
        }
    };
    if is_stdin && from.fill_buf().map_err(failed)?.is_empty() {
        return Err(transfer::Failure::EmptyInput.into());
    }
    let read = import::read(from, folds).map_err(failed)?;
    Ok(read.map_err(|faults| transfer::Failure::Faults { what, faults })?)
}

pub(super) fn verify(command: Verify) -> Result<(), Failure> {
    let Verify { store, backup } = command;
    let (content, revision) = match (backup, store.optional_location()?) {
        (Some(file), _) => {
            let (header, content) = backup::verify(&file, &bytes_read(&file))?;
            (content, header.revision)
        }
        (None, Some(location)) => run(async {
            let store = transfer::open(&location, false).await?;
            let content = read_all(&*store).await;
            store.close().await?;
            content
        })?,
        (None, None) => {
            return Err(usage(
                "name a backup (--backup FILE) or a store (--data-dir DIR, or --store etcd --etcd-endpoints URL)",
            ));
        }
    };
    say(&content.report(revision).to_string())
}

async fn read_all(store: &dyn Store) -> Result<(Content, u64), Failure> {
    let mut snapshot = store.snapshot().await?;
    let mut content = Content::default();
    let progress = records_read();
    while let Some(page) = snapshot.pages.next().await {
        let page = page?;
        page.iter().try_for_each(|entry| content.add(entry, None).map(drop))?;
        progress.inc(page.len() as u64);
    }
    Ok((content, snapshot.revision))
}

pub(super) fn backup(command: Backup) -> Result<(), Failure> {
    let Backup { from, token, store, output: path } = command;
    let location = store.optional_location()?;
    let failed = |error| transfer::Failure::file(&path, error);
    let mut file = DurableFile::create(&path).map_err(failed)?;
    let mut output = bytes_written().wrap_write(&mut file);
    match (from, location) {
        (Some(from), _) => run(async {
            let token = token.unwrap_or_default();
            Ok(fetch::backup(&from, &token, &mut output, &path.display().to_string())
                .await
                .map(drop)?)
        })?,
        (None, Some(location)) => run(async {
            let store = transfer::open(&location, false).await?;
            let written = write_backup(&*store, &mut output).await;
            store.close().await?;
            written
        })?,
        (None, None) => {
            return Err(usage(
                "name a running service (--from URL) or a store (--data-dir DIR, or --store etcd --etcd-endpoints URL)",
            ));
        }
    }
    drop(output);
    // Verified from the disk, where a write can have gone wrong.
    let draft = file.draft().map_err(failed)?;
    let (header, content) = backup::verify(draft, &bytes_read(draft))?;
    file.commit().map_err(failed)?;
    say(&content.report(header.revision).to_string())
}

async fn write_backup(store: &dyn Store, output: &mut impl io::Write) -> Result<(), Failure> {
    let mut chunks =
        std::pin::pin!(backup::bytes(store.snapshot().await?, Clock::system().now_ms()));
    while let Some(chunk) = chunks.next().await {
        output
            .write_all(&chunk?)
            .map_err(|source| Failure::File { what: "the backup".to_owned(), source })?;
    }
    Ok(())
}

pub(super) fn restore(command: Restore) -> Result<(), Failure> {
    let Restore { data_dir, file } = command;
    telemetry::init_logs(telemetry::LogFormat::Text).map_err(|error| usage(&error))?;
    let now_ms = Clock::system().now_ms();
    let (header, content, revision) =
        backup::restore(&file, &data_dir, now_ms, &bytes_read(&file))?;
    say(&content.report(header.revision).to_string())?;
    complain(&format!(
        "The store is at revision {revision}, above all that the lost store can have issued. \
         Watchers of the lost store must list and watch again."
    ));
    Ok(())
}

fn run<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    telemetry::init_logs(telemetry::LogFormat::Text).map_err(|error| usage(&error))?;
    Runtime::new().map_err(|error| Failure::Serve(error.into()))?.block_on(command)
}

fn usage(message: &str) -> Failure {
    Failure::Config(vec![message.to_owned()])
}
