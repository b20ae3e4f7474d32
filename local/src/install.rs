//! Finds the programs that development and tests need, and installs the missing ones.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace_root;

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
    /// The mail server.
    Dovecot,
    /// The engine that containers run in.
    Docker,
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
            // Its programs for each protocol are packages of their own.
            Self::Dovecot => find("dovecot").filter(|_| {
                let programs = ["imap", "pop3", "submission"];
                programs.iter().all(|name| Path::new("/usr/lib/dovecot").join(name).is_file())
            }),
            Self::Docker => find("dockerd"),
        }
    }

    fn debian_packages(self) -> &'static [&'static str] {
        match self {
            Self::PostgreSql => &["postgresql"],
            Self::Redis => &["redis-server"],
            Self::PgBouncer => &["pgbouncer"],
            Self::Chromium => &["chromium"],
            Self::Dovecot => &["dovecot-core", "dovecot-imapd", "dovecot-pop3d", "dovecot-submissiond"],
            Self::Docker => &["docker.io"],
        }
    }

    /// The system's own services that Debian makes of the packages.
    fn debian_units(self) -> &'static [&'static str] {
        match self {
            Self::PostgreSql => &["postgresql.service"],
            Self::Redis => &["redis-server.service"],
            Self::PgBouncer => &["pgbouncer.service"],
            Self::Chromium => &[],
            Self::Dovecot => &["dovecot.service", "dovecot.socket"],
            Self::Docker => &["docker.service", "docker.socket", "containerd.service"],
        }
    }

    /// None where Homebrew has nothing that would do.
    fn brew_formula(self) -> Option<&'static str> {
        match self {
            Self::PostgreSql => Some("postgresql@17"),
            Self::Redis => Some("redis"),
            Self::PgBouncer => Some("pgbouncer"),
            Self::Chromium => Some("chromium"),
            // It has version 2.4 only, which reads another configuration.
            Self::Dovecot => None,
            // An application with a window.
            Self::Docker => None,
        }
    }
}

/// Installs Debian's packages without what Debian does next, namely to start the system's own servers of them, now and
/// at each boot: we want their programs. A machine that has a policy of its own keeps it. The arguments are the
/// packages, `--`, and the units.
const INSTALL_QUIETLY: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
packages=
while [ "$1" != -- ]; do packages="$packages $1"; shift; done
shift
apt-get update --quiet &&
    apt-get install --yes --quiet --no-install-recommends --option DPkg::Lock::Timeout=300 $packages || exit
if command -v systemctl >/dev/null; then
    for unit; do systemctl disable --quiet "$unit" || true; done
fi
"#;

/// Installs those of the tools that are missing, with apt-get or Homebrew, and says so on standard error.
pub fn ensure_installed(tools: &[Tool]) -> Result<()> {
    let missing = || -> Vec<Tool> { tools.iter().copied().filter(|tool| tool.locate().is_none()).collect() };
    if missing().is_empty() {
        return Ok(());
    }
    // Tests that need the same tool start at once, and package managers refuse a second run rather than wait.
    let target = workspace_root().join("target");
    fs::create_dir_all(&target)?;
    let lock = File::create(target.join("install.lock"))?;
    lock.lock().context("cannot wait for another installation")?;
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.debian_packages()).copied().collect();
    if find("apt-get").is_some() {
        eprintln!("Installing {} with apt-get ...", packages.join(", "));
        let units: Vec<&str> = missing.iter().flat_map(|tool| tool.debian_units()).copied().collect();
        let script = ["sh", "-c", INSTALL_QUIETLY, "sh"];
        run(&[as_root()?, &script[..], &packages, &["--"], &units].concat())
            .with_context(|| format!("cannot install {}", packages.join(", ")))?;
    } else if find("brew").is_some() {
        let formulas: Option<Vec<&str>> = missing.iter().map(|tool| tool.brew_formula()).collect();
        let formulas = formulas.with_context(|| format!("Homebrew has not all of {}", packages.join(", ")))?;
        eprintln!("Installing {} with Homebrew ...", formulas.join(", "));
        run(&[&["brew", "install"][..], &formulas].concat())?;
    } else {
        bail!("please install {}: neither apt-get nor brew is here to do it", packages.join(", "));
    }
    for tool in missing {
        ensure!(tool.locate().is_some(), "{tool:?} was installed, yet its program is not found");
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

/// Whether nobody is there to read that something was left out: `CI` is set, as CI systems do.
pub fn running_in_ci() -> bool {
    means_ci(env::var_os("CI").as_deref())
}

fn means_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "false")
}

/// What stands before a command that only root may run.
fn as_root() -> Result<&'static [&'static str]> {
    if running_as_root()? {
        return Ok(&[]);
    }
    ensure!(find("sudo").is_some(), "installing packages needs root: run this once as root, or install sudo");
    Ok(&["sudo"])
}

fn run(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let status = Command::new(program).args(arguments).status().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} failed, see above");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_where_the_variable_says_so() {
        let means = |value: &str| means_ci(Some(OsStr::new(value)));
        assert!(means("true") && means("1"));
        assert!(!means_ci(None) && !means("") && !means("false"));
    }
}
