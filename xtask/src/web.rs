//! The page of `clients/web`: built when something of it has changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use local::workspace_root;

/// Builds the page where it has to be, and returns the folder that is to be served.
pub(crate) fn build_page() -> Result<PathBuf> {
    let page = workspace_root().join("clients/web");
    let built = page.join("dist");
    let newest = newest(&page)?.max(newest(&workspace_root().join("clients/typescript/src"))?);
    if changed_at(&built.join("index.html")).is_none_or(|time| time <= newest) {
        let installed = changed_at(&page.join("node_modules/.package-lock.json"));
        if installed < changed_at(&page.join("package-lock.json")) {
            eprintln!("Installing what builds the page (npm ci in clients/web) ...");
            npm(&page, &["ci", "--no-audit", "--no-fund", "--silent"])?;
        }
        eprintln!("Building the page (npm run build in clients/web) ...");
        npm(&page, &["run", "--silent", "build", "--", "--logLevel", "warn"])?;
    }
    Ok(built)
}

fn npm(folder: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new("npm").args(arguments).current_dir(folder).status().context("npm is not installed")?;
    ensure!(status.success(), "npm {} failed, see above", arguments.join(" "));
    Ok(())
}

/// When something in a folder was changed last, what is made of it aside.
fn newest(folder: &Path) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let changed = match path.is_dir() {
            true if path.ends_with("dist") || path.ends_with("node_modules") => None,
            true => Some(self::newest(&path)?),
            false => changed_at(&path),
        };
        newest = newest.max(changed.unwrap_or(newest));
    }
    Ok(newest)
}

fn changed_at(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}
