//! The process's environment: nobody else reads it.

use anyhow::bail;

type Lookup = Box<dyn Fn(&str) -> Option<String>>;

/// Looks variables up and collects what is wrong with them.
pub(crate) struct Variables {
    lookup: Lookup,
    faults: Vec<String>,
}

impl Variables {
    pub(crate) fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    pub(crate) fn new(lookup: impl Fn(&str) -> Option<String> + 'static) -> Self {
        Self { lookup: Box::new(lookup), faults: Vec::new() }
    }

    /// An empty variable counts as unset: templates and `.env` files write it so.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
    }

    /// Lambda sets these two reserved variables, which no deployment can unset.
    pub(crate) fn is_on_lambda(&self) -> bool {
        ["AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME"].iter().any(|name| self.get(name).is_some())
    }

    /// On Lambda itself: `sam local` imitates Lambda and says so.
    pub(crate) fn is_deployed(&self) -> bool {
        self.is_on_lambda() && self.get("AWS_SAM_LOCAL").as_deref() != Some("true")
    }

    /// With the white space around it.
    pub(crate) fn whole(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.trim().is_empty())
    }

    pub(crate) fn parsed<T>(
        &mut self,
        name: &'static str,
        meaning: &str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        match self.get(name) {
            None => default,
            Some(value) => parse(&value).unwrap_or_else(|| {
                self.fault(name, meaning);
                default
            }),
        }
    }

    /// The value itself is not repeated: it may be a secret that landed in the wrong variable.
    /// A second fault of one variable follows from the first.
    pub(crate) fn fault(&mut self, name: &str, meaning: &str) {
        let fault = format!("{name} must be ");
        if !self.faults.iter().any(|known| known.starts_with(&fault)) {
            self.faults.push(fault + meaning);
        }
    }

    pub(crate) fn finish(self) -> anyhow::Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        bail!("bad configuration: {}", self.faults.join("; "))
    }
}
