//! `export`, `import`, `verify`, `backup`, `restore`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::{complain, progress::Progress, say};
use crate::{
    app::Failure,
    clock::Clock,
    model::AppKey,
    store::{Engine, Store, exists},
    telemetry,
    transfer::{
        self, backup,
        content::Content,
        export, fetch,
        import::{self, Incoming},
        merge::{Mode, Plan},
        output::Output,
    },
};

#[derive(Args)]
struct Place {
    /// What keeps the records [default: the embedded store]
    #[arg(long, value_enum, env = "MUTE_STORE")]
    store: Option<Engine>,
    /// Where they are kept; no service may be running on it
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    data_dir: PathBuf,
}

impl Place {
    fn engine(&self) -> Engine {
        self.store.unwrap_or_default()
    }

    async fn open(&self, create: bool) -> Result<Arc<dyn Store>, transfer::Failure> {
        transfer::open(self.engine(), &self.data_dir, create).await
    }
}

#[derive(Args)]
pub(super) struct Export {
    #[command(flatten)]
    place: Place,
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
    place: Place,
    /// What becomes of records that the file does not have: `merge` leaves them, `replace` removes them (of an export of one app, that app's)
    #[arg(long, value_enum, default_value = "merge")]
    mode: Mode,
    /// Check the file, tell what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// An export, or - for standard input
    file: PathBuf,
}

#[derive(Args)]
pub(super) struct Verify {
    /// What keeps the records [default: the embedded store]
    #[arg(long, value_enum, env = "MUTE_STORE")]
    store: Option<Engine>,
    /// A data directory that no service is running on
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// A backup; comes before --data-dir
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Backup {
    /// The admin listener of a running service, such as http://127.0.0.1:9090; comes before --data-dir
    #[arg(long, value_name = "URL", requires = "token")]
    from: Option<String>,
    /// The token of a service with the scope "admin" and the apps ["*"]; what is given here can be seen by others on the machine
    #[arg(long, env = "MUTE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// What keeps the records [default: the embedded store]
    #[arg(long, value_enum, env = "MUTE_STORE")]
    store: Option<Engine>,
    /// A data directory that no service is running on
    #[arg(long, value_name = "DIR", env = "MUTE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The file to write, whole or not at all; replaces one that is there
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
pub(super) struct Restore {
    #[command(flatten)]
    place: Place,
    /// A backup
    file: PathBuf,
}

pub(super) fn export(command: Export) -> Result<(), Failure> {
    let Export { place, output, app } = command;
    if let Some(Err(error)) = app.clone().map(AppKey::parse) {
        return Err(usage(&format!("--app: {}", error.message)));
    }
    run(async {
        let store = place.open(false).await?;
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
        complain(&format!("{} records are exported; sha256 {}", content.records(), content.sha256()));
        Ok(())
    })
}

async fn export_to_file(store: &dyn Store, app: Option<&str>, now_ms: u64, path: &Path) -> Result<Content, transfer::Failure> {
    let mut to = Output::create(path).map_err(|error| transfer::Failure::file(path, error))?;
    let content = export::export(store, app, now_ms, &mut to, &path.display().to_string()).await?;
    to.finish().map_err(|error| transfer::Failure::file(path, error))?;
    Ok(content)
}

pub(super) fn import(command: Import) -> Result<(), Failure> {
    let Import { place, mode, dry_run, file } = command;
    let incoming = read_export(&file)?;
    run(async {
        // A trial creates nothing, not even an empty store.
        let store = match !dry_run || exists(place.engine(), &place.data_dir) {
            true => Some(place.open(true).await?),
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

async fn merge(store: Option<&dyn Store>, incoming: Incoming, mode: Mode, dry_run: bool) -> Result<String, Failure> {
    let snapshot = match store {
        Some(store) => Some(store.snapshot().await?),
        None => None,
    };
    let plan = Plan::of(incoming, snapshot, mode).await?;
    let told = format!("{} new, {} changed, {} removed, {} as they were\n", plan.new, plan.changed, plan.removed, plan.same);
    let Some(store) = store.filter(|_| !dry_run) else { return Ok(format!("Would be imported: {told}")) };
    let mut progress = Progress::of(plan.changes());
    plan.commit(store, Clock::system().now_ms(), |done| progress.tell(done)).await?;
    Ok(format!("Imported: {told}"))
}

fn read_export(file: &Path) -> Result<Incoming, Failure> {
    let is_standard = file == Path::new("-");
    let what = if is_standard { "standard input".to_owned() } else { file.display().to_string() };
    let failed = |source| transfer::Failure::File { what: what.clone(), source };
    let from: Box<dyn BufRead> = match is_standard {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file).map_err(failed)?)),
    };
    let read = import::read(from).map_err(failed)?;
    Ok(read.map_err(|faults| transfer::Failure::Faults { what, faults })?)
}

pub(super) fn verify(command: Verify) -> Result<(), Failure> {
    let Verify { store, data_dir, backup } = command;
    let (content, revision) = match (backup, data_dir) {
        (Some(file), _) => {
            let (header, content) = backup::verify(&file)?;
            (content, header.revision)
        }
        (None, Some(data_dir)) => run(async {
            let store = Place { store, data_dir }.open(false).await?;
            let content = read_all(&*store).await;
            store.close().await?;
            content
        })?,
        (None, None) => return Err(usage("name a data directory (--data-dir) or a backup (--backup)")),
    };
    say(&content.report(revision).to_string());
    Ok(())
}

async fn read_all(store: &dyn Store) -> Result<(Content, u64), Failure> {
    let (mut snapshot, mut content) = (store.snapshot().await?, Content::default());
    while let Some(page) = snapshot.pages.next().await {
        page?.iter().try_for_each(|entry| content.add(entry).map(drop))?;
    }
    Ok((content, snapshot.revision))
}

pub(super) fn backup(command: Backup) -> Result<(), Failure> {
    let Backup { from, token, store, data_dir, output: path } = command;
    let failed = |error| transfer::Failure::file(&path, error);
    let mut output = Output::create(&path).map_err(failed)?;
    match (from, data_dir) {
        (Some(from), _) => run(async {
            let token = token.unwrap_or_default();
            Ok(fetch::backup(&from, &token, &mut output, &path.display().to_string()).await.map(drop)?)
        })?,
        (None, Some(data_dir)) => run(async {
            let store = Place { store, data_dir }.open(false).await?;
            let written = write_backup(&*store, &mut output).await;
            store.close().await?;
            written
        })?,
        (None, None) => return Err(usage("name a running service (--from) or a data directory (--data-dir)")),
    }
    // What was sent and what is on the disk may be two things.
    let (header, content) = backup::verify(output.draft().map_err(failed)?)?;
    output.finish().map_err(failed)?;
    say(&content.report(header.revision).to_string());
    Ok(())
}

async fn write_backup(store: &dyn Store, output: &mut Output) -> Result<(), Failure> {
    let mut pieces = std::pin::pin!(backup::bytes(store.snapshot().await?, Clock::system().now_ms()));
    while let Some(piece) = pieces.next().await {
        output.write_all(&piece?).map_err(|source| Failure::File { what: "the backup".to_owned(), source })?;
    }
    Ok(())
}

pub(super) fn restore(command: Restore) -> Result<(), Failure> {
    let Restore { place, file } = command;
    telemetry::init_logs();
    let now_ms = Clock::system().now_ms();
    let (header, content, newest) = backup::restore(&file, place.engine(), &place.data_dir, now_ms)?;
    say(&content.report(header.revision).to_string());
    complain(&format!("The store is at revision {newest}; whoever followed the changes of the lost one has to begin anew."));
    Ok(())
}

fn run<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    telemetry::init_logs();
    Runtime::new().map_err(|error| Failure::Serve(error.into()))?.block_on(command)
}

fn usage(what: &str) -> Failure {
    Failure::Config(vec![what.to_owned()])
}
