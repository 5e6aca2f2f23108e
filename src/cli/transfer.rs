//! `export`, `import`, `verify`, `backup`, `restore`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::{
    output::{complain, say},
    progress::Progress,
};
use crate::{
    app::Failure,
    clock::Clock,
    config::{Config, EtcdSettings, Settings},
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
        output::Output,
    },
};

/// Which store; no service may be running on a directory.
#[derive(Args)]
struct Where {
    /// What keeps the records [default: the embedded store]
    #[arg(long, value_enum, env = "MUTE_STORE")]
    store: Option<Engine>,
    /// The directory of an embedded store that no service is running on
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    etcd: EtcdSettings,
}

impl Where {
    /// Nothing where none is named.
    fn named(self) -> Result<Option<Location>, Failure> {
        Ok(match self.store.unwrap_or_default() {
            Engine::Sled => {
                self.data_dir.map(|path| Location::Directory { path, memory: Memory::default() })
            }
            Engine::Etcd => Some(Location::Cluster(self.etcd.cluster().map_err(Failure::Config)?)),
        })
    }

    fn place(self) -> Result<Location, Failure> {
        self.named()?.ok_or_else(|| {
            usage("name the store: --data-dir DIR, or --store etcd --etcd-endpoints URL")
        })
    }
}

#[derive(Args)]
pub(super) struct Export {
    #[command(flatten)]
    store: Where,
    /// A file to write to, whole or not at all; without it, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only the records of this app, such as org#app
    #[arg(long)]
    app: Option<String>,
}

#[derive(Args)]
pub(super) struct Import {
    #[command(flatten)]
    store: Where,
    /// What becomes of records that the file does not have: `merge` leaves them, `replace` removes
    /// them (of an export of one app, that app's)
    #[arg(long, value_enum, default_value = "merge")]
    mode: Mode,
    /// Check the file, tell what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The configuration of the service: in its apps that fold users' case, ids of the file are
    /// folded
    #[arg(long, value_name = "FILE", env = "MUTE_CONFIG")]
    config: Option<PathBuf>,
    /// An export, or - for standard input
    file: PathBuf,
}

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    store: Where,
    /// A backup; comes before a store
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Backup {
    /// The admin listener of a running service, such as http://127.0.0.1:9090; comes before a store
    #[arg(long, value_name = "URL", requires = "token")]
    from: Option<String>,
    /// The token of a service with the scope "admin" and the apps ["*"]; what is given here can be
    /// seen by others on the machine
    #[arg(long, env = "MUTE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    store: Where,
    /// The file to write, whole or not at all; replaces one that is there
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
pub(super) struct Restore {
    /// An empty directory, or one that is not there yet; a cluster is restored by its own
    /// snapshots, or with `import`
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    data_dir: PathBuf,
    /// A backup
    file: PathBuf,
}

pub(super) fn export(command: Export) -> Result<(), Failure> {
    let Export { store, output, app } = command;
    if let Some(Err(error)) = app.clone().map(AppKey::parse) {
        return Err(usage(&format!("--app: {}", error.message)));
    }
    let place = store.place()?;
    run(async {
        let store = transfer::open(&place, false).await?;
        let now_ms = Clock::system().now_ms();
        let content = match &output {
            None => {
                let mut to = BufWriter::new(io::stdout());
                export::export(&*store, app.as_deref(), now_ms, &mut to, "standard output").await
            }
            Some(path) => export_to_file(&*store, app.as_deref(), now_ms, path).await,
        };
        store.close().await?;
        let content = content?;
        complain(&format!(
            "{} records are exported; sha256 {}",
            content.records(),
            content.sha256()
        ));
        Ok(())
    })
}

async fn export_to_file(
    store: &dyn Store,
    app: Option<&str>,
    now_ms: u64,
    path: &Path,
) -> Result<Content, transfer::Failure> {
    let mut to = Output::create(path).map_err(|error| transfer::Failure::file(path, error))?;
    let content = export::export(store, app, now_ms, &mut to, &path.display().to_string()).await?;
    to.finish().map_err(|error| transfer::Failure::file(path, error))?;
    Ok(content)
}

pub(super) fn import(command: Import) -> Result<(), Failure> {
    let Import { store, mode, dry_run, config, file } = command;
    let place = store.place()?;
    let apps = config.map(|file| {
        Config::load(Settings::default(), Some(&file), false).map(|config| config.apps)
    });
    let folds =
        apps.transpose().map_err(Failure::Config)?.map(|apps| Folds::of(&apps)).unwrap_or_default();
    let incoming = read_export(&file, folds)?;
    run(async {
        // A trial creates nothing, not even an empty store.
        let store = match !dry_run || exists(&place).await? {
            true => Some(transfer::open(&place, true).await?),
            false => None,
        };
        let told = merge(store.as_deref(), incoming, mode, dry_run).await;
        if let Some(store) = store {
            store.close().await?;
        }
        say(&told?);
        Ok(())
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
    let told = format!(
        "{} new, {} changed, {} removed, {} as they were\n",
        plan.new, plan.changed, plan.removed, plan.same
    );
    let Some(store) = store.filter(|_| !dry_run) else {
        return Ok(format!("Would be imported: {told}"));
    };
    let mut progress = Progress::of(plan.changes());
    plan.commit(store, Clock::system().now_ms(), |done| progress.report(done)).await?;
    Ok(format!("Imported: {told}"))
}

fn read_export(file: &Path, folds: Folds) -> Result<Incoming, Failure> {
    let is_standard = file == Path::new("-");
    let what = if is_standard { "standard input".to_owned() } else { file.display().to_string() };
    let failed = |source| transfer::Failure::File { what: what.clone(), source };
    let from: Box<dyn BufRead> = match is_standard {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file).map_err(failed)?)),
    };
    let read = import::read(from, folds).map_err(failed)?;
    Ok(read.map_err(|faults| transfer::Failure::Faults { what, faults })?)
}

pub(super) fn verify(command: Verify) -> Result<(), Failure> {
    let Verify { store, backup } = command;
    let (content, revision) = match (backup, store.named()?) {
        (Some(file), _) => {
            let (header, content) = backup::verify(&file)?;
            (content, header.revision)
        }
        (None, Some(place)) => run(async {
            let store = transfer::open(&place, false).await?;
            let content = read_all(&*store).await;
            store.close().await?;
            content
        })?,
        (None, None) => {
            return Err(usage(
                "name a backup (--backup), or a store: --data-dir DIR, or --store etcd --etcd-endpoints URL",
            ));
        }
    };
    say(&content.report(revision).to_string());
    Ok(())
}

async fn read_all(store: &dyn Store) -> Result<(Content, u64), Failure> {
    let mut snapshot = store.snapshot().await?;
    let mut content = Content::default();
    while let Some(page) = snapshot.pages.next().await {
        page?.iter().try_for_each(|entry| content.add(entry, None).map(drop))?;
    }
    Ok((content, snapshot.revision))
}

pub(super) fn backup(command: Backup) -> Result<(), Failure> {
    let Backup { from, token, store, output: path } = command;
    let place = store.named()?;
    let failed = |error| transfer::Failure::file(&path, error);
    let mut output = Output::create(&path).map_err(failed)?;
    match (from, place) {
        (Some(from), _) => run(async {
            let token = token.unwrap_or_default();
            Ok(fetch::backup(&from, &token, &mut output, &path.display().to_string())
                .await
                .map(drop)?)
        })?,
        (None, Some(place)) => run(async {
            let store = transfer::open(&place, false).await?;
            let written = write_backup(&*store, &mut output).await;
            store.close().await?;
            written
        })?,
        (None, None) => {
            return Err(usage(
                "name a running service (--from), or a store: --data-dir DIR, or --store etcd --etcd-endpoints URL",
            ));
        }
    }
    // What was sent and what is on the disk may be two things.
    let (header, content) = backup::verify(output.draft().map_err(failed)?)?;
    output.finish().map_err(failed)?;
    say(&content.report(header.revision).to_string());
    Ok(())
}

async fn write_backup(store: &dyn Store, output: &mut Output) -> Result<(), Failure> {
    let mut pieces =
        std::pin::pin!(backup::bytes(store.snapshot().await?, Clock::system().now_ms()));
    while let Some(piece) = pieces.next().await {
        output
            .write_all(&piece?)
            .map_err(|source| Failure::File { what: "the backup".to_owned(), source })?;
    }
    Ok(())
}

pub(super) fn restore(command: Restore) -> Result<(), Failure> {
    let Restore { data_dir, file } = command;
    telemetry::init_logs(telemetry::LogFormat::Text);
    let now_ms = Clock::system().now_ms();
    let (header, content, newest) = backup::restore(&file, &data_dir, now_ms)?;
    say(&content.report(header.revision).to_string());
    complain(&format!(
        "The store is at revision {newest}; whoever followed the changes of the lost one has to begin anew."
    ));
    Ok(())
}

fn run<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    telemetry::init_logs(telemetry::LogFormat::Text);
    Runtime::new().map_err(|error| Failure::Serve(error.into()))?.block_on(command)
}

fn usage(what: &str) -> Failure {
    Failure::Config(vec![what.to_owned()])
}
