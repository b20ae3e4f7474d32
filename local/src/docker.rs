//! A Docker engine: the one that runs here, or one of our own that leaves nothing behind.

use std::{
    collections::BTreeSet,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    install::{Tool, ensure_installed, find, running_as_root, running_in_ci},
    services::{Service, secret},
};
use anyhow::{Context, Result, ensure};

/// The real images, for which a stand-in serves where they cannot be pulled.
const POSTGRES: &str = "postgres:17";
const REDIS: &str = "redis:8";
const STAND_IN: &str = "email_service/stand-in:latest";
/// The image that the SAM CLI makes of ours, with its runtime interface emulator in it.
const STAND_IN_OF_SAM: &str = "email_service/stand-in:rapid-x86_64";

/// Where Debian and Fedora have the authorities that programs trust.
const CERTIFICATES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The network interface of every engine's default network, on which the SAM CLI reaches the functions.
const BRIDGE: &str = "docker0";

/// A Docker engine.
pub struct Engine {
    /// The engine that we started, with its address; none where one runs anyway.
    own: Option<(Service, String)>,
    bridge_is_ours: bool,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.own = None;
        if self.bridge_is_ours {
            // The engine makes it and leaves it; what cannot be removed is an idle interface.
            let _ = Command::new("ip").args(["link", "delete", BRIDGE]).output();
        }
    }
}

impl Engine {
    /// Root on Debian gets one installed in CI: a developer may have reasons to have none.
    ///
    /// # Errors
    /// No engine answers and none can be started; the error says why.
    pub fn start() -> Result<Self> {
        let running = Self { own: None, bridge_is_ours: false };
        if find("docker").is_some() && running.docker(&["version"]).output()?.status.success() {
            return Ok(running);
        }
        ensure!(running_as_root()?, "no Docker engine answers, and only root can start one");
        if running_in_ci() && find("apt-get").is_some() {
            ensure_installed(&[Tool::Docker])?;
        }
        let dockerd = Tool::Docker.locate().context("no Docker engine answers, and dockerd is not installed")?;
        ensure!(find("docker").is_some(), "dockerd is installed, and the program docker is not");
        eprintln!("Starting a Docker engine ...");
        let bridge_is_ours = !Path::new("/sys/class/net").join(BRIDGE).exists();
        let mut address = String::new();
        let service = Service::run("the Docker engine", "TERM", "API listen on", |directory| {
            let path = |name: &str| directory.join(name).display().to_string();
            address = format!("unix://{}", path("socket"));
            let options = [("--host", address.clone()), ("--data-root", path("data")), ("--exec-root", path("exec"))];
            let mut command = vec![dockerd.display().to_string(), "--pidfile".to_owned(), path("pid")];
            command.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
            // The host's rules stay as they are: containers talk over bridges, and published ports are carried by a
            // process.
            let network = ["--iptables=false", "--ip6tables=false", "--ip-forward=false"];
            command.extend(network.map(str::to_owned));
            Ok(command)
        })?;
        Ok(Self { own: Some((service, address)), bridge_is_ours })
    }

    /// The environment in which `docker` and the SAM CLI find the engine, as arguments of `env`.
    pub fn environment(&self) -> Vec<String> {
        self.own.iter().map(|(_, address)| format!("DOCKER_HOST={address}")).collect()
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.args(self.environment()).arg("docker").args(arguments);
        command
    }

    /// Runs `docker` and returns its output.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.docker(arguments).output().context("cannot run docker")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {} failed: {}", arguments.join(" "), error.trim());
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// The images to run, which go at the end if they are stand-ins.
pub struct Images<'a> {
    engine: &'a Engine,
    stand_in: bool,
}

impl<'a> Images<'a> {
    /// Pulls the databases' images. Where that fails, makes one image of this machine's files that stands in for
    /// these and for Lambda's: it has the shell and tools that the SAM CLI wants, and our C library, so it proves
    /// nothing about Amazon Linux. It says so in a label.
    pub fn get(engine: &'a Engine) -> Result<Self> {
        let pull = |image| engine.ask(&["pull", "--quiet", image]);
        let Err(error) = pull(POSTGRES).and_then(|_| pull(REDIS)) else {
            return Ok(Self { engine, stand_in: false });
        };
        ensure!(cfg!(target_os = "linux"), "{error:#}");
        eprintln!("Images cannot be pulled ({error:#}).\nMaking a stand-in of this machine's files ...");
        let images = Self { engine, stand_in: true };
        images.import()?;
        Ok(images)
    }

    /// The image that PostgreSQL runs in.
    pub fn postgres(&self) -> &'static str {
        if self.stand_in { STAND_IN } else { POSTGRES }
    }

    /// The image that Redis runs in.
    pub fn redis(&self) -> &'static str {
        if self.stand_in { STAND_IN } else { REDIS }
    }

    /// What tells `sam local` about them.
    pub fn sam_options(&self) -> &'static [&'static str] {
        if self.stand_in { &["--invoke-image", STAND_IN, "--skip-pull-image"] } else { &[] }
    }

    fn import(&self) -> Result<()> {
        ensure_installed(&[Tool::PostgreSql, Tool::Redis])?;
        let initdb = Tool::PostgreSql.locate().context("initdb is not installed")?;
        let binaries = initdb.parent().context("initdb has no directory")?;
        let ask = |option: &str| -> Result<PathBuf> {
            let output = Command::new(binaries.join("pg_config")).arg(option).output();
            Ok(String::from_utf8(output.context("pg_config is not installed")?.stdout)?.trim().into())
        };
        let modules = ask("--pkglibdir")?;
        let redis = find("redis-server").context("redis-server is not installed")?;
        let mut programs = vec![initdb.clone(), binaries.join("postgres"), redis];
        programs.extend(["plpgsql.so", "dict_snowball.so"].map(|module| modules.join(module)));
        programs.extend(["sh", "mv", "chmod", "cp", "rm"].map(|name| Path::new("/bin").join(name)));
        let mut files = libraries(&programs)?;
        // The functions want more parts of the C library than these programs do.
        let c_library =
            files.iter().find(|file| file.ends_with("libc.so.6")).context("ldd names no libc.so.6")?.clone();
        let parts = ["libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1", "libutil.so.1"];
        files.extend(parts.map(|part| c_library.with_file_name(part)));
        files.extend(programs);
        files.extend([ask("--sharedir")?, "/usr/share/zoneinfo".into(), "/etc/passwd".into(), "/etc/group".into()]);
        // Whoever is a client of AWS does not start without an authority to trust, though none is asked here.
        files.extend(CERTIFICATES.map(PathBuf::from).into_iter().filter(|file| file.exists()));

        // Links become what they point to, for the image lacks the directories that they lead through.
        let mut tar = Command::new("tar")
            .args(["--create", "--dereference", "--hard-dereference", "--directory=/", "--files-from=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run tar")?;
        let archive = tar.stdout.take().context("tar has no output")?;
        let path = format!("ENV PATH={}:/usr/bin:/bin", binaries.display());
        let changes =
            [path.as_str(), "ENV LAMBDA_TASK_ROOT=/var/task", "WORKDIR /var/task", "LABEL email_service.stand-in=true"];
        let mut import = self.engine.docker(&["import"]);
        import.args(changes.iter().flat_map(|change| ["--change", change])).args(["-", STAND_IN]);
        let import = import.stdin(archive).stdout(Stdio::null()).spawn().context("cannot run docker")?;
        let list: String =
            files.iter().map(|file| format!("{}\n", file.display().to_string().trim_start_matches('/'))).collect();
        tar.stdin.take().context("tar has no input")?.write_all(list.as_bytes())?;
        let imported = import.wait_with_output()?.status.success();
        ensure!(tar.wait()?.success() && imported, "cannot make the stand-in, see above");
        Ok(())
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        if self.stand_in {
            // The SAM CLI may not have come to making its own; nobody could act on another failure.
            let _ = self.engine.ask(&["image", "rm", "--force", STAND_IN, STAND_IN_OF_SAM]);
        }
    }
}

/// The shared libraries that the programs want, the loader among them.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").args(programs).output().context("cannot run ldd")?;
    let text = String::from_utf8(output.stdout)?;
    let words = text.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(words.map(PathBuf::from).collect())
}

/// A network of its own, removed at the end.
pub struct Network<'a> {
    engine: &'a Engine,
    /// Its name, which nobody else has.
    pub name: String,
}

impl<'a> Network<'a> {
    /// Makes one.
    pub fn create(engine: &'a Engine) -> Result<Self> {
        let name = format!("email-service-{}", &secret()[..16]);
        engine.ask(&["network", "create", &name])?;
        Ok(Self { engine, name })
    }

    /// Runs a server whose output says `sign` when it is ready. It is known by `host` in this network, and removed
    /// when the value is dropped, or we die, with the signal `at_once`.
    pub fn run(&self, host: &'static str, at_once: &str, sign: &str, arguments: &[&str]) -> Result<Service> {
        let name = self.container(host);
        Service::run(host, at_once, sign, |_| {
            let mut command = vec!["env".to_owned()];
            command.extend(self.engine.environment());
            let fixed = ["docker", "run", "--rm", "--pull=never", "--network", &self.name, "--network-alias", host];
            command.extend(fixed.iter().chain(&["--name", &name]).chain(arguments).map(|word| (*word).to_owned()));
            Ok(command)
        })
    }

    /// The address at which containers reach this machine, if the engine runs on it.
    pub fn gateway(&self) -> Result<IpAddr> {
        let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
        let answer = self.engine.ask(&["network", "inspect", "--format", format, &self.name])?;
        let first = answer.split_whitespace().next().context("the network has no gateway")?;
        first.parse().with_context(|| format!("{first} is no address"))
    }

    /// Where this machine reaches a port that was published.
    pub fn published(&self, host: &str, port: u16) -> Result<String> {
        let answer = self.engine.ask(&["port", &self.container(host), &port.to_string()])?;
        Ok(answer.lines().next().context("the port is not published")?.to_owned())
    }

    fn container(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        // The SAM CLI may leave containers when it is ended. What we cannot remove, nobody can remove here.
        let list = "{{range $id, $container := .Containers}}{{$id}} {{end}}";
        let containers = self.engine.ask(&["network", "inspect", "--format", list, &self.name]).unwrap_or_default();
        for container in containers.split_whitespace() {
            let _ = self.engine.ask(&["rm", "--force", "--volumes", container]);
        }
        let _ = self.engine.ask(&["network", "rm", &self.name]);
    }
}
