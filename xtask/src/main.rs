//! The commands behind `cargo dev`, `cargo bench`, `cargo verify`, `cargo fuzz-all`, `cargo soak`, `cargo sam-local` and
//! `cargo migrate`.

mod bench;
mod demo;
mod dev;
mod env_file;
mod functions;
mod fuzz;
mod outside;
mod sam;
mod sam_local;
mod settings;
mod soak;
mod tokens;
mod verify;
mod web;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use local::install::running_in_ci;

use settings::Settings;

const USAGE: &str = "\
cargo dev [--release] [--demo] [--no-mail] [--no-page] [--concurrency N]
    Serve the functions on http://localhost:5000 with a throw-away PostgreSQL, Redis and mail server, and a mail client
    in the browser on http://localhost:3000.
      --release        build with optimisation
      --demo           create a few accounts, and a mailbox with messages
      --no-mail        start no mail server
      --no-page        build and serve no mail client
      --concurrency N  the most processes per function (default 2)
    PORT, DATABASE_URL (with OWNER_DATABASE_URL for migrations), REDIS_URL, JWT_SECRET_KEY, RATE_LIMIT_PER_MINUTE,
    SSL_CERT_FILE and so on, from the environment or a file .env, replace each part: see .env.example.
cargo bench [-- OPTIONS]
    Measure the release binaries beside a floor; see docs/PERFORMANCE.md.
      --accounts N     in the large table (default 1000000)
      --messages N     in the large table of those (default 1000000)
      --mailbox N      in the mailbox that is synchronised (default 20000); of a larger one only time and memory
      --only SECTION   size, cold, warm, sign-in, sync, reading, actions,
                       sending, context, crowd, scale, messages or capacity
      --quick          see that all can be measured, with the development build and about a second for each row
      --record         put the table into docs/PERFORMANCE.md
      --peer URL       measure a server with the same API and this service in turn, and nothing else
      --peer-header 'Name: value'
                       what the peer wants to see in each request, such as a token
cargo verify
    Check format, lints, dependencies, tests, that the benchmark runs, hostile input, the API as Schemathesis, the
    TypeScript client and a browser see it, documentation, the template, what `sam build` makes of it and
    `sam local start-api`. What this machine lacks is skipped; where CI is set, that is a failure.
    `cargo run -p xtask -- STEP` does one of schemathesis, browser and sam-artifacts alone.
cargo fuzz-all [TARGET] [--runs N]
    Run the fuzz targets (autoconfig, body, config, content, event, html, imap, imap-mailbox, message, pop3, provider,
    query, smtp, submission, token), or one, on N inputs each (default 2000000).
cargo soak [--minutes N]
    Many tenants at work with accounts and mailboxes while PostgreSQL, Redis, queues, object store, mail server, provider,
    functions and workers fail, for N minutes (default 5).
cargo sam-local [--serve]
    Build the functions and try their main paths behind `sam local start-api`, with PostgreSQL and Redis in containers.
    Uses the Docker engine that runs; root gets one for the time where only dockerd is installed. Where CI is set, root
    on Debian gets dockerd installed.
      --serve          serve on http://localhost:5000 (or PORT) until Ctrl-C
      --if-possible    no engine is no failure, unless CI is set
cargo migrate
    Bring the database of OWNER_DATABASE_URL up to date, and give the functions' role the password in DATABASE_URL.
";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // As a sentence: a developer has no use for a backtrace of a taken port.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments.split_first().map_or(("help", &[][..]), |(first, rest)| (first.as_str(), rest));
    match (command, rest) {
        ("dev", rest) => dev::run(dev::Options::parse(rest)?, &Settings::load()?).await,
        ("bench", rest) => bench::run(bench::Options::parse(rest)?).await,
        ("sam-local", rest) => sam_local::run(&sam_local::Options::parse(rest)?, &Settings::load()?).await,
        // A step of `verify`.
        ("sam-artifacts", []) => sam::check_artifacts().await,
        ("verify", []) => verify::run(),
        ("schemathesis", []) => outside::schemathesis().await,
        ("browser", []) => outside::browser().await,
        ("fuzz-all", rest) => fuzz::run(&fuzz::Options::parse(rest)?),
        ("soak", rest) => soak::run(soak::Options::parse(rest)?).await,
        ("migrate", []) => migrate(&Settings::load()?).await,
        ("help" | "--help" | "-h", _) => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown command: {}\n\n{USAGE}", arguments.join(" ")),
    }
}

async fn migrate(settings: &Settings) -> Result<()> {
    let owner = settings.get("OWNER_DATABASE_URL").context("set OWNER_DATABASE_URL to the owner's postgres:// URL")?;
    let names = ["DATABASE_URL", "MAIL_DATABASE_URL", "SCHEDULER_DATABASE_URL", "READER_DATABASE_URL"];
    let urls: Vec<_> = names.iter().filter_map(|name| settings.get(name)).collect();
    let applied = migrate::apply(&owner, &urls).await?;
    println!("{}", summary(&applied));
    Ok(())
}

fn summary(applied: &[String]) -> String {
    match applied {
        [] => "The database is up to date.".to_owned(),
        names => format!("Applied: {}", names.join(", ")),
    }
}

/// Leaves out a check that this machine cannot make. A developer sees it and lives with it; in CI, where nobody reads
/// what went well, it is a failure.
fn skip(what: &str, reason: &str) -> Result<()> {
    skip_where(running_in_ci(), what, reason)
}

fn skip_where(in_ci: bool, what: &str, reason: &str) -> Result<()> {
    ensure!(!in_ci, "CI skips nothing, and {what} cannot be checked here: {reason}");
    eprintln!("SKIPPED  {what}: {reason}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_check_is_a_failure_in_ci_and_fine_elsewhere() {
        let skipped = |in_ci| skip_where(in_ci, "the browser test", "there is no Chromium");
        assert!(skipped(false).is_ok());
        let error = skipped(true).unwrap_err().to_string();
        assert!(error.contains("the browser test") && error.contains("no Chromium"), "{error}");
    }
}
