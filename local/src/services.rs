//! Throw-away PostgreSQL and Redis servers for development, tests and benchmarks.
//!
//! Each server listens on a free loopback port and keeps its files in a directory of its own.
//! It goes, with the directory, when its value is dropped and also when the process that started it dies in any way.
//! What is not installed is installed at the first start.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio_postgres::NoTls;

use crate::install::{Tool, ensure_installed, find, running_as_root};

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// Another process may take a free port between our look and the server's start.
const PORT_ATTEMPTS: usize = 5;

/// Stands between us and a server so that the server cannot outlive us: its standard input is a pipe that we hold.
/// The file `running` holds the server's process id and exists as long as the server does.
/// Signals to the terminal or to us are none of its business, hence the trap. A server that leads a process group is
/// told as a group.
const SUPERVISOR: &str = r#"
directory=$1 at_once=$2; shift 2
running=$directory/running
tell() {
    pid=$(cat "$running")
    kill -s "$1" -- "-$pid" 2>/dev/null || kill -s "$1" "$pid"
}
trap '' HUP INT TERM PIPE
while read -r request; do
    case $request in
        start) ( "$@" & echo $! >"$running"; wait $!; rm -f "$running" ) </dev/null >>"$directory/log" 2>&1 & ;;
        *) tell "$request" ;;
    esac
    echo done
done
if [ -s "$running" ]; then
    tell CONT
    tell "$at_once"
fi
wait
# Members of its group may still be dying, and write until then.
rm -rf "$directory" 2>/dev/null || { sleep 1; rm -rf "$directory"; }
"#;

/// A server under supervision, with a directory of its own.
#[derive(Debug)]
pub struct Service {
    name: &'static str,
    directory: PathBuf,
    supervisor: Child,
}

impl Service {
    /// Prepares `command` to run on request; `at_once` is the signal that ends it without ceremony (`QUIT`, `KILL`).
    /// The directory is removed together with the service.
    pub fn supervise(name: &'static str, directory: PathBuf, at_once: &str, command: &[String]) -> Result<Self> {
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(&directory)
            .arg(at_once)
            .args(command)
            .current_dir(&directory)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start the supervisor of {name}"))?;
        Ok(Self { name, directory, supervisor })
    }

    /// Runs what `command` makes of a new directory, until the value is dropped; ready when its output says `sign`.
    pub fn run(
        name: &'static str,
        at_once: &str,
        sign: &str,
        command: impl FnOnce(&Path) -> Result<Vec<String>>,
    ) -> Result<Self> {
        let directory = new_directory()?;
        let command = command(&directory)?;
        let mut service = Self::supervise(name, directory, at_once, &command)?;
        let log = service.log();
        service.start(|_| fs::read_to_string(&log).is_ok_and(|log| log.contains(sign)))?;
        Ok(service)
    }

    /// The file that has the server's output.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Starts the server and waits until `ready` says yes to its process id.
    pub fn start(&mut self, ready: impl Fn(u32) -> bool) -> Result<()> {
        ensure!(self.pid().is_none(), "{} is running already", self.name);
        // Made here, not by the supervisor, so that its absence always means that the server has ended.
        fs::write(self.running(), "")?;
        self.request("start")?;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && self.running().exists() {
            if self.pid().is_some_and(&ready) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        bail!("{} did not get ready; its log ends:\n{}", self.name, last_lines(&log, 20));
    }

    /// The server's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.running()).ok()?.trim().parse().ok()
    }

    /// Sends a signal by its name, such as `STOP`.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        ensure!(self.pid().is_some(), "{} is not running", self.name);
        self.request(signal)
    }

    /// Sends a signal that ends the server, and waits for the end.
    pub fn end(&mut self, signal: &str) -> Result<()> {
        self.signal(signal)?;
        let deadline = Instant::now() + DEADLINE;
        while self.running().exists() {
            ensure!(Instant::now() < deadline, "{} does not end on SIG{signal}", self.name);
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn request(&mut self, line: &str) -> Result<()> {
        let pipe = self.supervisor.stdin.as_mut().context("the supervisor has no pipe")?;
        writeln!(pipe, "{line}").with_context(|| format!("the supervisor of {} is gone", self.name))?;
        let answers = self.supervisor.stdout.as_mut().context("the supervisor has no output")?;
        Ok(answers.read_exact(&mut [0; "done\n".len()])?)
    }

    fn running(&self) -> PathBuf {
        self.directory.join("running")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // Nobody could act on a failure here, and the supervisor does its work either way.
        let _ = self.supervisor.wait();
    }
}

/// A directory for ourselves, which goes when its value is dropped and also when we die in any way.
#[derive(Debug)]
pub struct Directory(Service);

impl Directory {
    /// Makes one among the system's temporary files.
    pub fn new() -> Result<Self> {
        // A supervisor that is never told to start anything.
        Service::supervise("a directory", new_directory()?, "KILL", &[]).map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.directory
    }
}

/// A PostgreSQL server with a superuser `postgres`; the migrations add the functions' role.
#[derive(Debug)]
pub struct Postgres {
    service: Service,
    data: PathBuf,
    port: u16,
    owner_password: String,
    app_password: String,
    mail_password: String,
    scheduler_password: String,
    reader_password: String,
}

impl Postgres {
    /// Initialises and starts a server, which takes about a second.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Like `start`, with more settings, such as `["max_connections=500"]`.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
        ensure_installed(&[Tool::PostgreSql])?;
        let binaries = postgres_binaries()?;
        let owner_password = secret();
        retry_on_other_ports(|port| {
            let directory = new_directory()?;
            let user = server_user(&directory)?;
            let data = directory.join("data");
            let initdb = [user.as_slice(), &[text(&binaries.join("initdb"))]].concat();
            initialise(&initdb, &directory, &data, &owner_password)?;

            let mut command = [user.as_slice(), &[text(&binaries.join("postgres")), "-D".into(), text(&data)]].concat();
            let port_setting = format!("port={port}");
            let own = [
                port_setting.as_str(),
                "listen_addresses=127.0.0.1",
                "unix_socket_directories=",
                // The data is thrown away, so nothing is lost when the machine goes down.
                "fsync=off",
            ];
            for setting in own.iter().chain(settings) {
                command.extend(["-c".into(), (*setting).into()]);
            }
            let service = Service::supervise("PostgreSQL", directory, "QUIT", &command)?;
            let mut postgres = Self {
                service,
                data,
                port,
                owner_password: owner_password.clone(),
                app_password: secret(),
                mail_password: secret(),
                scheduler_password: secret(),
                reader_password: secret(),
            };
            postgres.start_again()?;
            Ok(postgres)
        })
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Connects as the superuser, who owns what the migrations create.
    pub fn owner_url(&self, database: &str) -> String {
        self.url("postgres", &self.owner_password, database)
    }

    /// Connects as the functions' role, once the migrations have created it with this URL's password.
    pub fn app_url(&self, database: &str) -> String {
        self.url("email_service_app", &self.app_password, database)
    }

    /// Connects as the role of functions that open sealed secrets, likewise.
    pub fn mail_url(&self, database: &str) -> String {
        self.url("email_service_mail", &self.mail_password, database)
    }

    /// Connects as the role of the function that asks who is due, likewise.
    pub fn scheduler_url(&self, database: &str) -> String {
        self.url("email_service_scheduler", &self.scheduler_password, database)
    }

    /// Connects as the role of functions that only read, likewise.
    pub fn reader_url(&self, database: &str) -> String {
        self.url("email_service_reader", &self.reader_password, database)
    }

    /// Connects as each of the functions' roles: what a migration sets the passwords of.
    pub fn role_urls(&self, database: &str) -> [String; 4] {
        [self.app_url(database), self.mail_url(database), self.scheduler_url(database), self.reader_url(database)]
    }

    /// The password that `app_url` carries.
    pub fn app_password(&self) -> &str {
        &self.app_password
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let (client, connection) = tokio_postgres::connect(&self.owner_url("postgres"), NoTls).await?;
        // Ends with the client; its errors reach us as those of the statement.
        tokio::spawn(connection);
        client.batch_execute(&format!("create database \"{name}\"")).await?;
        Ok(())
    }

    /// Stops the server in order; connections are cut.
    pub fn stop(&mut self) -> Result<()> {
        self.service.end("INT")
    }

    /// Ends the server as a crash does: it recovers from its log at the next start.
    pub fn kill(&mut self) -> Result<()> {
        self.service.end("QUIT")
    }

    /// Starts the server again, on the same port and data.
    pub fn start_again(&mut self) -> Result<()> {
        let pid_file = self.data.join("postmaster.pid");
        self.service.start(|pid| {
            // PostgreSQL's own tool looks there, too: the first line is the process, the last its state.
            let state = fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = state.lines();
            lines.next() == Some(&pid.to_string()) && lines.next_back().is_some_and(|last| last.starts_with("ready"))
        })
    }

    fn url(&self, role: &str, password: &str, database: &str) -> String {
        url(role, password, self.port, database)
    }
}

fn url(role: &str, password: &str, port: u16, database: &str) -> String {
    format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}")
}

/// PgBouncer in transaction mode, through which the endpoints' roles reach a server.
#[derive(Debug)]
pub struct PgBouncer {
    /// Runs as long as this value lives.
    _service: Service,
    port: u16,
    app_password: String,
    reader_password: String,
}

impl PgBouncer {
    /// Starts it with this many connections to the server.
    pub fn start(postgres: &Postgres, connections: usize) -> Result<Self> {
        ensure_installed(&[Tool::PgBouncer])?;
        let program = find("pgbouncer").context("pgbouncer is not installed")?;
        let Postgres { app_password, reader_password, .. } = postgres;
        retry_on_other_ports(|port| {
            let service = Service::run("PgBouncer", "KILL", "process up", |directory| {
                let (settings, users) = (directory.join("pgbouncer.ini"), directory.join("users"));
                let text_of_settings = format!(
                    "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                     listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
                     pool_mode = transaction\ndefault_pool_size = {connections}\n",
                    postgres.port(),
                    users.display()
                );
                fs::write(&settings, text_of_settings)?;
                let logins = [("email_service_app", app_password), ("email_service_reader", reader_password)];
                let logins = logins.map(|(role, password)| format!("\"{role}\" \"{password}\"\n"));
                fs::write(&users, logins.concat())?;
                Ok([server_user(directory)?, vec![text(&program), text(&settings)]].concat())
            })?;
            let [app_password, reader_password] = [app_password, reader_password].map(Clone::clone);
            Ok(Self { _service: service, port, app_password, reader_password })
        })
    }

    /// As [`Postgres::app_url`].
    pub fn app_url(&self, database: &str) -> String {
        url("email_service_app", &self.app_password, self.port, database)
    }

    /// As [`Postgres::reader_url`].
    pub fn reader_url(&self, database: &str) -> String {
        url("email_service_reader", &self.reader_password, self.port, database)
    }
}

/// A Redis server that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    service: Service,
    port: u16,
}

impl Redis {
    /// Starts a server.
    pub fn start() -> Result<Self> {
        ensure_installed(&[Tool::Redis])?;
        let program = find("redis-server").context("redis-server is not installed")?;
        retry_on_other_ports(|port| {
            let directory = new_directory()?;
            let port_text = port.to_string();
            let arguments = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"];
            let mut command = vec![text(&program)];
            command.extend(arguments.map(String::from));
            command.push(text(&directory));
            let service = Service::supervise("Redis", directory, "KILL", &command)?;
            let mut redis = Self { service, port };
            redis.start_again()?;
            Ok(redis)
        })
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends the server as a crash does; connections are reset, new ones refused.
    pub fn kill(&mut self) -> Result<()> {
        self.service.end("KILL")
    }

    /// Freezes the server: connections stay open and get no answer.
    pub fn pause(&mut self) -> Result<()> {
        self.service.signal("STOP")
    }

    /// Ends a pause.
    pub fn resume(&mut self) -> Result<()> {
        self.service.signal("CONT")
    }

    /// Starts the server again on the same port, empty.
    pub fn start_again(&mut self) -> Result<()> {
        let port = self.port;
        self.service.start(|pid| {
            // Its process id proves that it is ours, and not another server that took the port first.
            redis_info(port).is_ok_and(|info| info.contains(&format!("process_id:{pid}\r")))
        })
    }
}

fn redis_info(port: u16) -> std::io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    connection.write_all(b"INFO server\r\nQUIT\r\n")?;
    let mut info = String::new();
    connection.read_to_string(&mut info)?;
    Ok(info)
}

fn initialise(initdb: &[String], directory: &Path, data: &Path, password: &str) -> Result<()> {
    let password_file = directory.join("password");
    fs::write(&password_file, password)?;
    let locale = if cfg!(target_os = "macos") { "en_US.UTF-8" } else { "C.UTF-8" };
    let (program, arguments) = initdb.split_first().context("no initdb command")?;
    let output = Command::new(program)
        .args(arguments)
        .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--no-instructions"])
        .arg(format!("--locale={locale}"))
        .arg(format!("--pwfile={}", password_file.display()))
        .arg(format!("--pgdata={}", data.display()))
        .current_dir(directory)
        .output()
        .with_context(|| format!("cannot run {program}"));
    fs::remove_file(&password_file)?;
    let output = output?;
    ensure!(output.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The directory with `initdb`, `postgres` and `pg_dump`, the newest version if several are installed outside of PATH.
pub fn postgres_binaries() -> Result<PathBuf> {
    let initdb = Tool::PostgreSql.locate().context("PostgreSQL is not installed: no initdb was found")?;
    Ok(initdb.parent().context("initdb has no directory")?.to_path_buf())
}

/// PostgreSQL refuses to run as root. Returns the words to put before its commands and hands it the directory.
fn server_user(directory: &Path) -> Result<Vec<String>> {
    if running_as_root()? { as_user("postgres", directory) } else { Ok(Vec::new()) }
}

/// Hands a directory to a user of less power than root. Returns the words to put before that user's commands.
pub(crate) fn as_user(user: &str, directory: &Path) -> Result<Vec<String>> {
    let status = Command::new("chown").arg("-R").arg(format!("{user}:")).arg(directory).status()?;
    ensure!(status.success(), "cannot give {} to the user {user}", directory.display());
    let group = Command::new("id").args(["-g", user]).output().context("cannot run id")?;
    let group = String::from_utf8(group.stdout)?;
    let identity = [format!("--reuid={user}"), format!("--regid={}", group.trim())];
    Ok(["setpriv"]
        .into_iter()
        .chain(identity.iter().map(String::as_str))
        .chain(["--init-groups", "--"])
        .map(String::from)
        .collect())
}

pub(crate) fn new_directory() -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = std::env::temp_dir().join(format!("email-service-{}", &secret()[..16]));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

pub(crate) fn retry_on_other_ports<T>(start: impl Fn(u16) -> Result<T>) -> Result<T> {
    let mut result = start(free_port()?);
    for _ in 1..PORT_ATTEMPTS {
        match &result {
            Err(error) if format!("{error:#}").contains("ddress already in use") => result = start(free_port()?),
            _ => break,
        }
    }
    result
}

/// A TCP port on 127.0.0.1 that nobody uses now.
pub fn free_port() -> Result<u16> {
    loop {
        // Below those that others get who ask for any: somebody else would have it before it is used.
        let port = rand::random_range(10_000..32_000);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// 32 random bytes as hex digits: a password, or a name that nobody else has.
pub fn secret() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The end of a log.
pub fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(port: u16) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    }

    #[test]
    fn redis_can_be_killed_paused_and_started_again() -> Result<()> {
        let mut redis = Redis::start()?;
        redis.pause()?;
        assert!(redis_info(redis.port()).is_err());
        redis.resume()?;
        assert!(redis_info(redis.port()).is_ok());
        redis.kill()?;
        assert!(!answers(redis.port()));
        redis.start_again()?;
        let (port, directory) = (redis.port(), redis.service.directory.clone());
        assert!(answers(port) && directory.exists());
        // Also a frozen server goes.
        redis.pause()?;
        drop(redis);
        assert!(!answers(port) && !directory.exists());
        Ok(())
    }

    #[test]
    fn postgres_can_be_stopped_killed_and_started_again() -> Result<()> {
        let mut postgres = Postgres::start()?;
        postgres.stop()?;
        assert!(!answers(postgres.port()));
        postgres.start_again()?;
        postgres.kill()?;
        postgres.start_again()?;
        assert!(answers(postgres.port()));
        let (port, directory) = (postgres.port(), postgres.service.directory.clone());
        drop(postgres);
        assert!(!answers(port) && !directory.exists());
        Ok(())
    }
}
