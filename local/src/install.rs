//! Finds the programs that development and tests need, and installs the missing ones.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// A program that comes from the system's package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The database server.
    PostgreSql,
    /// The store of the rate limiter.
    Redis,
    /// The connection pooler that stands in for RDS Proxy.
    PgBouncer,
    /// The browser.
    Chromium,
}

impl Tool {
    /// Where the tool's program is, if it is installed.
    pub fn locate(self) -> Option<PathBuf> {
        match self {
            // Debian and Homebrew keep the server's programs outside of PATH, by version.
            Self::PostgreSql => find("initdb").map(resolve).or_else(newest_initdb),
            Self::Redis => find("redis-server"),
            Self::PgBouncer => find("pgbouncer"),
            Self::Chromium => ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(find),
        }
    }

    fn debian_package(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql",
            Self::Redis => "redis-server",
            Self::PgBouncer => "pgbouncer",
            Self::Chromium => "chromium",
        }
    }

    fn brew_formula(self) -> &'static str {
        match self {
            Self::PostgreSql => "postgresql@17",
            Self::Redis => "redis",
            Self::PgBouncer => "pgbouncer",
            Self::Chromium => "chromium",
        }
    }
}

/// Installs those of the tools that are missing, with apt-get or Homebrew, and says so on standard error.
pub fn ensure_installed(tools: &[Tool]) -> Result<()> {
    let missing: Vec<Tool> = tools.iter().copied().filter(|tool| tool.locate().is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.debian_package()).collect();
    if find("apt-get").is_some() {
        eprintln!("Installing {} with apt-get ...", packages.join(", "));
        run(&[&apt_get()?, &["update", "--quiet"][..]].concat())?;
        run(&[&apt_get()?, &["install", "--yes", "--quiet", "--no-install-recommends"][..], &packages].concat())?;
    } else if find("brew").is_some() {
        let formulas: Vec<&str> = missing.iter().map(|tool| tool.brew_formula()).collect();
        eprintln!("Installing {} with Homebrew ...", formulas.join(", "));
        run(&[&["brew", "install"][..], &formulas].concat())?;
    } else {
        bail!("please install {}: neither apt-get nor brew is here to do it", packages.join(", "));
    }
    for tool in missing {
        ensure!(tool.locate().is_some(), "{} was installed, yet its program is not found", tool.debian_package());
    }
    Ok(())
}

/// A program on PATH, or in the directories for servers that a user's PATH often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Follows links, so that a linked `initdb` leads to the directory with `postgres` in it.
fn resolve(program: PathBuf) -> PathBuf {
    program.canonicalize().unwrap_or(program)
}

fn newest_initdb() -> Option<PathBuf> {
    let roots = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"];
    let directories = roots.iter().filter_map(|root| Path::new(root).read_dir().ok()).flatten().flatten();
    directories
        .filter_map(|entry| {
            let initdb = entry.path().join("bin/initdb");
            let name = entry.file_name().into_string().ok()?;
            let version: u32 = name.trim_start_matches("postgresql@").parse().ok()?;
            initdb.is_file().then_some((version, initdb))
        })
        .max()
        .map(|(_, initdb)| initdb)
}

/// Whether we may do what only root may.
pub fn running_as_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("cannot run `id -u`")?;
    Ok(output.stdout.trim_ascii() == b"0")
}

fn apt_get() -> Result<Vec<&'static str>> {
    let mut words = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    if !running_as_root()? {
        ensure!(find("sudo").is_some(), "installing packages needs root: run this once as root, or install sudo");
        words.insert(0, "sudo");
    }
    Ok(words)
}

fn run(words: &[&str]) -> Result<()> {
    let line = words.join(" ");
    let (program, arguments) = words.split_first().context("an empty command")?;
    let status = Command::new(program).args(arguments).status().with_context(|| format!("cannot run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed; run it by hand to see why");
    Ok(())
}
