//! The wall clock of another process, which a test moves: a library that is preloaded into it (`clock_shim.c`).

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use voxgate::domain::Env;

use super::process::{Process, find_program};

const SHIM_SOURCE: &str = include_str!("clock_shim.c");

/// Built once a test process; renamed into place, so that others may build it at the same time.
static SHIM: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, built) = (folder.join("clock_shim.c"), folder.join(format!("clock_shim.{}", std::process::id())));
    fs::write(&source, SHIM_SOURCE).expect("the shim's source is written");
    let cc = find_program(&["cc", "gcc", "clang"], &[], "apt-get install gcc");
    let status = Command::new(cc).args(["-O2", "-shared", "-fPIC", "-o"]).arg(&built).arg(&source).status();
    assert!(status.expect("the compiler runs").success(), "clock_shim.c does not compile");
    let shim = folder.join("clock_shim.so");
    fs::rename(built, &shim).expect("the shim is put in place");
    shim
});

/// The file that the shim reads.
#[derive(Debug)]
pub(crate) struct MovedClock {
    offset: File,
    path: PathBuf,
    micros: AtomicI64,
}

impl MovedClock {
    /// One that runs.
    pub(crate) fn running() -> Self {
        Self::at(0)
    }

    /// One that stands still at this moment.
    pub(crate) fn still() -> Self {
        Self::at(Env::system().now().as_micros())
    }

    fn at(moment: i64) -> Self {
        let path = Process::folder("clock").join("clock");
        fs::write(&path, [0, moment].map(i64::to_ne_bytes).concat()).expect("the clock is written");
        let offset = File::options().write(true).open(&path).expect("the offset is there");
        Self { offset, path, micros: AtomicI64::new(0) }
    }

    /// What a process is started with that goes by it.
    pub(crate) fn env(&self) -> [(&str, &str); 2] {
        let text = |path: &'static Path| path.to_str().expect("UTF-8");
        [("LD_PRELOAD", text(&SHIM)), ("VOXGATE_CLOCK", self.path.to_str().expect("UTF-8"))]
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.step(i64::try_from(span.as_micros()).expect("a test's span"));
    }

    /// As a bad time server would.
    pub(crate) fn rewind(&self, span: Duration) {
        self.step(-i64::try_from(span.as_micros()).expect("a test's span"));
    }

    fn step(&self, span: i64) {
        let micros = self.micros.fetch_add(span, Ordering::SeqCst) + span;
        self.offset.write_all_at(&micros.to_ne_bytes(), 0).expect("the offset is written");
    }
}

impl Drop for MovedClock {
    fn drop(&mut self) {
        if let Some(folder) = self.path.parent() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
