//! A file system over FUSE that loses unsynced data, or a part of it, when the power is cut.
//!
//! `fsync` and `fdatasync` make a file's content and size durable, `fsync` of a directory makes its
//! entries durable. `sync_file_range` does nothing: files are read and written without the kernel's
//! page cache, so the call never arrives here. After a cut, a file has what was synced, and any of
//! the 4 KiB pages that were written since; a directory has what was synced, or its state at some
//! moment since. The disk can also fail on demand: altogether, or in one operation (`faulty.rs`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    path::Path,
    sync::{Arc, Mutex},
    time::UNIX_EPOCH,
};

use fuser::{BackgroundSession, Config, Errno, FileAttr, FileType, INodeNo};
use rand::{RngExt as _, rngs::StdRng};
use tempfile::TempDir;

use crate::faulty::{Fate, Fault, Faults, Kind};

mod fuse;

use fuse::Mounted;

const PAGE: usize = 4_096;

/// A mounted disk; unmounted when it is dropped.
pub struct Disk {
    state: Arc<Mutex<State>>,
    // Dropped in this order: the mount, then its directory.
    _session: BackgroundSession,
    mount_point: TempDir,
}

/// How the disk answers operations that change something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Well,
    /// All changes are refused, as on a file system that the kernel has remounted after an error.
    ReadOnly,
    /// Writes fail with EIO.
    FailsWrites,
    /// Syncs fail with EIO, and their data is lost.
    FailsSyncs,
}

impl Disk {
    /// `None` where this user may not mount one.
    pub fn mount() -> Option<Self> {
        let mount_point = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(State::new()));
        let session =
            fuser::spawn_mount(Mounted(state.clone()), mount_point.path(), &Config::default());
        Some(Self { state, _session: session.ok()?, mount_point })
    }

    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    pub fn set_health(&self, health: Health) {
        self.state.lock().unwrap().health = health;
    }

    /// Counts operations from zero, and injects these faults.
    pub fn set_faults(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.set(faults);
    }

    /// How many operations of each kind there were, and how many have failed.
    pub fn operations(&self) -> (BTreeMap<Kind, usize>, usize) {
        let state = self.state.lock().unwrap();
        (state.faults.counts(), state.faults.failed())
    }

    /// Empties the disk. No file may be open.
    pub fn format(&self) {
        let mut state = self.state.lock().unwrap();
        // The kernel may still use earlier numbers of files.
        *state = State { next: state.next, ..State::new() };
    }

    /// The present content, for `put_back`.
    pub fn image(&self) -> Image {
        Image(self.state.lock().unwrap().nodes.clone())
    }

    /// Restores the content of this image. No file may be open.
    pub fn put_back(&self, image: Image) {
        self.state.lock().unwrap().nodes = image.0;
    }

    /// Cuts the power. No file may be open.
    pub fn cut(&self, random: &mut StdRng) {
        self.state.lock().unwrap().cut(random);
    }
}

/// The content of a disk at a moment, synced and unsynced.
pub struct Image(HashMap<u64, Node>);

struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    health: Health,
    faults: Faults,
}

#[derive(Clone)]
enum Node {
    File(File),
    Directory(Directory),
}

#[derive(Clone, Default)]
struct File {
    current: Vec<u8>,
    synced: Vec<u8>,
    /// Numbers of the pages in which `current` may differ from `synced`.
    dirty: BTreeSet<usize>,
}

type Entries = BTreeMap<OsString, u64>;

#[derive(Clone, Default)]
struct Directory {
    current: Entries,
    /// The state before each change since the last sync. The first is the durable one.
    before: Vec<Entries>,
}

impl File {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.current.len() {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(data);
        self.dirty.extend(offset / PAGE..end.div_ceil(PAGE));
    }

    fn set_len(&mut self, len: usize) {
        self.dirty
            .extend(len.min(self.current.len()) / PAGE..len.max(self.current.len()).div_ceil(PAGE));
        self.current.resize(len, 0);
    }

    fn sync(&mut self) {
        self.synced.resize(self.current.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            self.keep(page);
        }
    }

    /// Makes one page durable, up to the durable size.
    fn keep(&mut self, page: usize) {
        let end = ((page + 1) * PAGE).min(self.synced.len()).min(self.current.len());
        if page * PAGE < end {
            self.synced[page * PAGE..end].copy_from_slice(&self.current[page * PAGE..end]);
        }
    }

    /// Loses unsynced data. Each page survives with this probability.
    fn lose_unsynced(&mut self, random: &mut StdRng, kept: f64) {
        if random.random_bool(0.5) {
            self.synced.resize(self.current.len(), 0);
        }
        for page in std::mem::take(&mut self.dirty) {
            if random.random_bool(kept) {
                self.keep(page);
            }
        }
        self.current.clone_from(&self.synced);
    }
}

impl Directory {
    fn change<T>(&mut self, change: impl FnOnce(&mut Entries) -> T) -> T {
        self.before.push(self.current.clone());
        change(&mut self.current)
    }

    fn lose_unsynced(&mut self, random: &mut StdRng) {
        let mut states = std::mem::take(&mut self.before);
        states.push(std::mem::take(&mut self.current));
        let kept = if random.random_bool(0.5) { 0 } else { random.random_range(0..states.len()) };
        self.current = states.swap_remove(kept);
    }
}

impl State {
    fn new() -> Self {
        let root = Node::Directory(Directory::default());
        let nodes = HashMap::from([(INodeNo::ROOT.0, root)]);
        Self { nodes, next: INodeNo::ROOT.0 + 1, health: Health::Well, faults: Faults::default() }
    }

    fn cut(&mut self, random: &mut StdRng) {
        // In the order of their numbers, so that a seed repeats the cut.
        let mut numbers: Vec<_> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            match self.nodes.get_mut(&number) {
                Some(Node::File(file)) => {
                    let kept = random.random();
                    file.lose_unsynced(random, kept);
                }
                Some(Node::Directory(directory)) => directory.lose_unsynced(random),
                None => {}
            }
        }
        let mut reached = BTreeSet::from([INodeNo::ROOT.0]);
        let mut pending = vec![INodeNo::ROOT.0];
        while let Some(number) = pending.pop() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&number) {
                let entries: Vec<_> = directory.current.values().copied().collect();
                pending.extend(entries.into_iter().filter(|number| reached.insert(*number)));
            }
        }
        self.nodes.retain(|number, _| reached.contains(number));
    }

    fn check_health(&self) -> Result<(), Errno> {
        match self.health {
            Health::Well | Health::FailsSyncs => Ok(()),
            Health::ReadOnly => Err(Errno::EROFS),
            Health::FailsWrites => Err(Errno::EIO),
        }
    }

    /// Whether this operation is done completely or by half. Errors: it fails.
    fn attempt(&mut self, kind: Kind) -> Result<Fate, Errno> {
        if kind != Kind::Open {
            self.check_health()?;
        }
        match self.faults.next(kind) {
            Fate::Failed(code) => Err(Errno::from_i32(code)),
            fate => Ok(fate),
        }
    }

    fn file(&mut self, number: INodeNo) -> Result<&mut File, Errno> {
        match self.nodes.get_mut(&number.0) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn directory(&mut self, number: INodeNo) -> Result<&mut Directory, Errno> {
        match self.nodes.get_mut(&number.0) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn find(&mut self, parent: INodeNo, name: &OsStr) -> Result<INodeNo, Errno> {
        self.directory(parent)?
            .current
            .get(name)
            .map(|number| INodeNo(*number))
            .ok_or(Errno::ENOENT)
    }

    fn attr(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        let (kind, size) = match self.nodes.get(&number.0).ok_or(Errno::ENOENT)? {
            Node::File(file) => (FileType::RegularFile, file.current.len() as u64),
            Node::Directory(_) => (FileType::Directory, 0),
        };
        Ok(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        self.attempt(Kind::Create)?;
        let number = self.next;
        self.directory(parent)?.change(|entries| entries.insert(name.to_owned(), number));
        self.next += 1;
        self.nodes.insert(number, node);
        self.attr(INodeNo(number))
    }

    /// The file itself stays until the cut: its entry may come back, and open handles still read
    /// it.
    fn remove(&mut self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        self.attempt(Kind::Unlink)?;
        let found = self.find(parent, name)?;
        if self.directory(found).is_ok_and(|directory| !directory.current.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.directory(parent)?.change(|entries| entries.remove(name));
        Ok(())
    }

    fn rename(
        &mut self,
        from: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new_name: &OsStr,
    ) -> Result<(), Errno> {
        self.attempt(Kind::Rename)?;
        let found = self.find(from, name)?;
        assert_eq!(from, to, "moves between directories are not supported");
        self.directory(from)?.change(|entries| {
            entries.remove(name);
            entries.insert(new_name.to_owned(), found.0);
        });
        Ok(())
    }

    fn set_len(&mut self, number: INodeNo, len: Option<u64>) -> Result<FileAttr, Errno> {
        if let Some(len) = len {
            self.attempt(Kind::Truncate)?;
            self.file(number)?.set_len(len as usize);
        }
        self.attr(number)
    }

    /// Returns how many bytes are written.
    fn write(&mut self, number: INodeNo, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let length = if self.attempt(Kind::Write)? == Fate::Short {
            data.len().div_ceil(2)
        } else {
            data.len()
        };
        self.file(number)?.write(offset as usize, &data[..length]);
        Ok(length)
    }

    /// A failed sync loses its data at the cut. Until then the data can be read.
    fn sync(&mut self, number: INodeNo, kind: Kind) -> Result<(), Errno> {
        self.check_health()?;
        let attempted = self.attempt(kind);
        let fails = attempted.is_err() || self.health == Health::FailsSyncs;
        match self.nodes.get_mut(&number.0).ok_or(Errno::ENOENT)? {
            Node::File(file) if fails => file.dirty.clear(),
            Node::Directory(_) if fails => {}
            Node::File(file) => file.sync(),
            Node::Directory(directory) => directory.before.clear(),
        }
        attempted.and(if fails { Err(Errno::EIO) } else { Ok(()) })
    }
}
