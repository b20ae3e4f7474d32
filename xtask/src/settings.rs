//! What the developer sets: the environment, and beneath it a file `.env`.

use std::{collections::HashMap, env, fs, io::ErrorKind};

use anyhow::{Context, Result};
use local::workspace_root;

/// Variables by name. An empty one counts as not set.
pub(crate) struct Settings(HashMap<String, String>);

impl Settings {
    pub(crate) fn load() -> Result<Self> {
        let path = workspace_root().join(".env");
        match fs::read_to_string(&path) {
            Ok(file) => Self::parse(&file).with_context(|| format!("in {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self(HashMap::new())),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn parse(file: &str) -> Result<Self> {
        let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pair = |line: &str| {
            let (name, value) = line.split_once('=').with_context(|| format!("`{line}` is not NAME=value"))?;
            Ok((name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
        };
        lines.map(pair).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let value = env::var(name).ok().or_else(|| self.0.get(name).cloned());
        value.filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_names_values_and_comments() -> Result<()> {
        let settings = Settings::parse("# comment\n\nA_TEST = b=c \nB_TEST=\"d\"\nC_TEST=\n")?;
        assert_eq!(settings.get("A_TEST").as_deref(), Some("b=c"));
        assert_eq!(settings.get("B_TEST").as_deref(), Some("d"));
        assert_eq!(settings.get("C_TEST"), None);
        assert!(Settings::parse("nonsense").is_err());
        Ok(())
    }
}
