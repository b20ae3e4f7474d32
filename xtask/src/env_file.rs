//! `target/dev.env`: where a running `cargo dev` says what it started. There as long as the service runs.
//!
//! The file holds secrets, so what stands in `target` is a link into a directory that goes with the process, however
//! that ends: of one that was killed a link to nowhere is left, which the next start takes away. Who comes while the
//! first is running gets a name of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use local::services::Directory;

const NAME: &str = "dev.env";

/// The file, which ends with this value.
pub(crate) struct EnvFile {
    link: PathBuf,
    file: PathBuf,
    /// Has the file, and takes it along.
    _directory: Directory,
}

impl EnvFile {
    /// Writes `NAME=value` lines into `folder/dev.env`, or `folder/dev-PORT.env` where another service has the first.
    pub(crate) fn write(folder: &Path, port: u16, variables: &[(String, String)]) -> Result<Self> {
        let directory = Directory::new()?;
        let file = directory.path().join(NAME);
        let text: String = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        // The directory is ours alone; who copies the file should not make it everybody's.
        let mut writer = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        writer.write_all(text.as_bytes())?;

        fs::create_dir_all(folder)?;
        // Of two that start at once, neither takes the other's link for a left one.
        let turn = File::open(folder)?;
        turn.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
        remove_left(folder)?;
        for name in [NAME.to_owned(), format!("dev-{port}.env")] {
            let link = folder.join(name);
            if !link.is_symlink() {
                symlink(&file, &link).with_context(|| format!("cannot write {}", link.display()))?;
                return Ok(Self { link, file, _directory: directory });
            }
        }
        bail!("another `cargo dev` has the port {port}")
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.link
    }
}

impl Drop for EnvFile {
    fn drop(&mut self) {
        // Somebody may have cleared the folder, and another service have come. On failure a link to nowhere is left.
        if fs::read_link(&self.link).is_ok_and(|target| target == self.file) {
            let _ = fs::remove_file(&self.link);
        }
    }
}

/// Removes the files of services that are gone: links to nowhere, and whole files, which nobody has written.
fn remove_left(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_one = name == NAME || (name.starts_with("dev-") && name.ends_with(".env"));
        if is_one && !(path.is_symlink() && path.exists()) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    fn write(folder: &Path, port: u16, secret: &str) -> Result<EnvFile> {
        EnvFile::write(folder, port, &[("SECRET".to_owned(), secret.to_owned())])
    }

    #[test]
    fn each_service_has_a_file_of_its_own_as_long_as_it_runs() -> Result<()> {
        let folder = Directory::new()?;
        fs::write(folder.path().join(NAME), "SECRET=of an earlier version")?;
        fs::write(folder.path().join("other.env"), "")?;
        let first = write(folder.path(), 5000, "one")?;
        let second = write(folder.path(), 5001, "two")?;
        assert_eq!((first.path(), second.path()), (&*folder.path().join(NAME), &*folder.path().join("dev-5001.env")));
        assert_eq!(fs::read_to_string(first.path())?, "SECRET=one\n");
        assert_eq!(fs::read_to_string(second.path())?, "SECRET=two\n");
        drop(first);
        let third = write(folder.path(), 5002, "three")?;
        assert_eq!(fs::read_to_string(folder.path().join(NAME))?, "SECRET=three\n");
        drop((second, third));
        let left: Vec<_> = fs::read_dir(folder.path())?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        assert!(!left.iter().flatten().any(|name| name.to_string_lossy().starts_with("dev")), "{left:?}");
        assert!(left.iter().flatten().any(|name| name == "other.env"));
        Ok(())
    }

    /// Not a test but the process that the next one kills.
    #[test]
    fn a_process_with_a_file() -> Result<()> {
        let Some(folder) = env::var_os("FOLDER_OF_A_TEST") else { return Ok(()) };
        let _file = write(Path::new(&folder), 5000, "one")?;
        println!("\nwritten");
        std::io::stdin().read_line(&mut String::new())?;
        Ok(())
    }

    #[test]
    fn one_that_was_killed_leaves_no_secret_and_is_in_nobodys_way() -> Result<()> {
        let folder = Directory::new()?;
        let mut child = Command::new(env::current_exe()?)
            .args(["--exact", "env_file::tests::a_process_with_a_file", "--nocapture"])
            .env("FOLDER_OF_A_TEST", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        output.lines().map_while(Result::ok).find(|line| line == "written").context("it wrote nothing")?;
        let link = folder.path().join(NAME);
        assert_eq!(fs::read_to_string(&link)?, "SECRET=one\n");
        child.kill()?;
        child.wait()?;
        // Its supervisor sees the end a moment later.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while link.exists() {
            assert!(std::time::Instant::now() < deadline, "the secrets are still there");
            std::thread::yield_now();
        }
        let next = write(folder.path(), 5000, "two")?;
        assert_eq!((next.path(), fs::read_to_string(&link)?), (&*link, "SECRET=two\n".to_owned()));
        Ok(())
    }
}
