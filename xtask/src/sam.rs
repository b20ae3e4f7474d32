//! The SAM CLI: checks of the template, and of what `sam build` makes of it.

use std::{
    env::{self, consts::ARCH},
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use hyper::Request;
use local::{
    emulator::Emulator,
    gateway::{Gateway, Options},
    install::{Tool, ensure_installed},
    services::{Postgres, Redis, Service, free_port, secret},
    template,
    tools::{SAM, python_tool},
    workspace_root,
};
use serde_json::Value;
use tokio::{net::TcpStream, time::sleep};

use crate::{
    demo::{create_accounts, send},
    dev::DATABASE,
    functions::SealingKeys,
    skip,
};

const CFN_LINT: &str = "cfn-lint==1.58.0";
const CHECKOV: &str = "checkov==3.3.30";
const CARGO_LAMBDA: &str = "cargo-lambda==1.9.2";
const ZIG: &str = "ziglang==0.17.1";

/// What Amazon Linux 2023 has, and so the runtime `provided.al2023`.
const NEWEST_GLIBC: (u32, u32) = (2, 34);
/// The function that is tried under the runtime interface emulator.
const EMULATED: &str = "list-accounts";

/// `sam` with these arguments, in the workspace.
pub(crate) fn sam(arguments: &[&str]) -> Result<Command> {
    let mut command = tool("sam", SAM, arguments)?;
    command.env("SAM_CLI_TELEMETRY", "0");
    Ok(command)
}

const TEMPLATES: [&str; 4] = ["template.yaml", "data.yaml", "rotation.yaml", "bootstrap.yaml"];
/// Where they are as CloudFormation gets them: the transform makes resources that nobody wrote.
const EXPANDED: &str = "target/expanded";

/// All templates, as they are written and as they are after the transform.
fn templates() -> Result<Vec<String>> {
    let script = ["tests/it/expand_templates.py", "--into", EXPANDED];
    let expanded = tool("python3", SAM, &[&script[..], &TEMPLATES].concat())?.status()?;
    ensure!(expanded.success(), "the templates cannot be transformed, see above");
    let names = TEMPLATES.iter().map(|name| format!("{EXPANDED}/{}", name.replace(".yaml", ".json")));
    Ok(TEMPLATES.iter().map(|name| (*name).to_owned()).chain(names).collect())
}

/// `cfn-lint` on all templates.
pub(crate) fn cfn_lint() -> Result<Command> {
    let mut command = tool("cfn-lint", CFN_LINT, &[])?;
    command.args(templates()?);
    Ok(command)
}

/// The security scan of all templates.
pub(crate) fn checkov() -> Result<Command> {
    let mut command = tool("checkov", CHECKOV, &["--config-file", ".checkov.yaml", "--file"])?;
    command.args(templates()?);
    Ok(command)
}

fn tool(program: &str, requirement: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(python_tool(program, requirement)?);
    command.current_dir(workspace_root()).args(arguments);
    Ok(command)
}

/// Builds every function as a deployment does, but without optimisation; returns the directory of the built template.
///
/// Optimising takes a quarter of an hour and changes neither which artifacts there are, nor which C library they want,
/// nor what they answer. A directory of its own, lest somebody deploys these.
pub(crate) fn build() -> Result<PathBuf> {
    // `cargo lambda` takes the first Python on the path for the one that has zig.
    let tools = [python_tool("python-zig", ZIG)?, python_tool("cargo-lambda", CARGO_LAMBDA)?];
    let tools = tools.iter().filter_map(|program| program.parent()).map(Path::to_path_buf);
    let path = env::join_paths(tools.chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())))?;
    let directory = workspace_root().join("target/sam");
    let architecture = if ARCH == "aarch64" { "Architecture=arm64" } else { "Architecture=x86_64" };
    let mut command = sam(&["build", "--parameter-overrides", architecture, "--build-dir"])?;
    command.arg(&directory).env("PATH", path).env("SAM_BUILD_MODE", "debug").env("CARGO_INCREMENTAL", "0");
    // There are three copies of each binary: cargo's own, cargo-lambda's and this one.
    command.env("CARGO_PROFILE_DEV_STRIP", "symbols");
    ensure!(command.status()?.success(), "sam build failed, see above");
    Ok(directory)
}

/// Builds, and looks at what was built: an artifact for each function, that Amazon Linux can load and that answers.
pub(crate) async fn check_artifacts() -> Result<()> {
    let directory = build()?;
    for function in template::routes(&workspace_root().join("template.yaml"))? {
        let artifact = directory.join(&function.logical_id).join("bootstrap");
        let bytes = fs::read(&artifact).with_context(|| format!("there is no artifact {}", artifact.display()))?;
        let (major, minor) = newest_glibc(&bytes).with_context(|| format!("{} names no glibc", artifact.display()))?;
        ensure!((major, minor) <= NEWEST_GLIBC, "{} wants GLIBC_{major}.{minor}", function.binary);
        println!("ok  {}: {} MB, glibc {major}.{minor}", function.binary, bytes.len() / 1_000_000);
    }
    if cfg!(target_os = "linux") {
        invoke(&directory).await?;
    } else {
        skip("invocations", "what sam build makes runs on Linux only")?;
    }
    Ok(())
}

/// The newest symbol version that a binary asks of the C library. The names stand in it as plain text.
fn newest_glibc(binary: &[u8]) -> Option<(u32, u32)> {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let candidates = binary.windows(PREFIX.len() + 2).filter(|window| window.starts_with(PREFIX));
    let minor = candidates.filter_map(|window| {
        let digits = window[PREFIX.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(None, |number, digit| Some(number.unwrap_or(0) * 10 + u32::from(digit - b'0')))
    });
    minor.max().map(|minor| (2, minor))
}

/// Each artifact answers its event file by `cargo lambda invoke` as it answers the same request over HTTP, and one of
/// them under Lambda's own emulator.
async fn invoke(directory: &Path) -> Result<()> {
    ensure_installed(&[Tool::PostgreSql, Tool::Redis])?;
    let (postgres, redis, aws) = (Postgres::start()?, Redis::start()?, Emulator::start()?);
    let bucket = aws.make_bucket().await?;
    postgres.create_database(DATABASE).await?;
    let (database, keys) = (postgres.app_url(DATABASE), SealingKeys::new()?);
    migrate::apply(&postgres.owner_url(DATABASE), &postgres.role_urls(DATABASE)).await?;
    let mut environment: Vec<(String, String)> = [
        // The emulator sets what only Lambda sets otherwise, and functions there refuse to believe headers.
        ("AWS_SAM_LOCAL", "true"),
        ("ALLOW_HEADER_AUTH", "true"),
        // All event files are of one user.
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("DATABASE_URL", &database),
        ("REDIS_URL", &redis.url()),
        ("JWT_SECRET_KEY", &secret()),
        ("SEALING_PUBLIC_KEY", &keys.public),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    environment.extend(bucket.env().iter().cloned());

    let functions = template::routes(&workspace_root().join("template.yaml"))?;
    let names: Vec<_> = functions.iter().filter(|f| !f.routes.is_empty()).map(|f| f.binary.clone()).collect();
    for function in &functions {
        // The gateway looks for them by these names. Links of an earlier look went with what it looked at.
        symlink(directory.join(&function.logical_id).join("bootstrap"), directory.join(&function.binary))?;
    }
    let emulated = directory.join(EMULATED).display().to_string();
    let mut options = Options::new(functions, directory.to_path_buf());
    options.env = environment.clone();
    keys.hand_to(&mut options, postgres.role_urls(DATABASE));
    let gateway = Gateway::start(options).await?;
    let address: SocketAddr = gateway.url().trim_start_matches("http://").parse()?;
    create_accounts(address).await?;

    let cargo_lambda = python_tool("cargo-lambda", CARGO_LAMBDA)?;
    for name in names {
        let (file, event) = event(&name)?;
        let mut command = Command::new(&cargo_lambda);
        command.args(["lambda", "invoke", &name, "-A", "127.0.0.1", "-P", &address.port().to_string(), "--data-file"]);
        command.arg(&file);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        let invoked: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{name}: {said}"))?;
        let over_http = send(address, request(&event)?).await?;
        // The first of the two took the address.
        let (status, same) = match name.as_str() {
            "create-account" => (201, over_http.status() == 409),
            // Each makes something of its own.
            "create-draft" | "create-upload" | "send-message" => (over_http.status().as_u16(), true),
            _ => (over_http.status().as_u16(), body(&invoked) == without_id(over_http.body())),
        };
        ensure!(same && invoked["statusCode"] == status, "{name} answers {invoked}, HTTP answers {over_http:?}");
        println!("ok  {name} by cargo lambda invoke: {status}, as over HTTP");
    }

    let (_, event) = event(EMULATED)?;
    let over_http = send(address, request(&event)?).await?;
    let emulator_address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let runtime_address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let program = emulator()?;
    let _emulator = Service::run("the runtime interface emulator", "TERM", "(rapid) exec", |directory| {
        // The package need not have it executable, and is not ours to change.
        let copy = directory.join("emulator");
        fs::copy(&program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
        fs::set_permissions(&copy, Permissions::from_mode(0o700))?;
        let mut command = vec!["env".to_owned()];
        command.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.push(copy.display().to_string());
        command.extend(["--runtime-interface-emulator-address".to_owned(), emulator_address.to_string()]);
        command.extend(["--runtime-api-address".to_owned(), runtime_address.to_string(), emulated]);
        Ok(command)
    })?;
    // It says that it runs a moment before it listens.
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(emulator_address).await.is_err() && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    let invocation = Request::post("/2015-03-31/functions/function/invocations").header("Host", "localhost");
    let answer =
        send(emulator_address, invocation.body(event.to_string())?).await.context("the emulator does not answer")?;
    let answer: Value = serde_json::from_str(answer.body()).context("the emulator's answer is no JSON")?;

    let same = answer["statusCode"] == over_http.status().as_u16() && body(&answer) == without_id(over_http.body());
    ensure!(same && over_http.status() == 200, "the emulator answers {answer}, HTTP answers {over_http:?}");
    println!("ok  {EMULATED} under the runtime interface emulator: the answer that HTTP gives");
    Ok(())
}

/// A function's event file, and what is in it.
fn event(function: &str) -> Result<(PathBuf, Value)> {
    let file = workspace_root().join(format!("tests/events/{function}.json"));
    let event = serde_json::from_str(&fs::read_to_string(&file)?).with_context(|| format!("{}", file.display()))?;
    Ok((file, event))
}

/// The HTTP request that API Gateway would make this event of.
fn request(event: &Value) -> Result<Request<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let uri = format!("{}?{}", text(&event["rawPath"]), text(&event["rawQueryString"]));
    let mut request = Request::builder().method(text(&event["requestContext"]["http"]["method"]).as_str()).uri(uri);
    for (name, value) in event["headers"].as_object().context("the event has no headers")? {
        // The event was addressed to a gateway on AWS.
        let value = if name == "host" { "localhost".to_owned() } else { text(value) };
        request = request.header(name, value);
    }
    Ok(request.body(text(&event["body"]))?)
}

/// What a function answered a client, but for what is another each time.
fn body(answer: &Value) -> Value {
    without_id(answer["body"].as_str().unwrap_or_default())
}

fn without_id(body: &str) -> Value {
    let mut body: Value = serde_json::from_str(body).unwrap_or_else(|_| body.into());
    if let Some(fields) = body.as_object_mut() {
        fields.remove("requestId");
    }
    body
}

/// It comes with the SAM CLI.
fn emulator() -> Result<PathBuf> {
    let python = python_tool("python3", SAM)?;
    let output = Command::new(python).args(["-c", "import samcli; print(samcli.__path__[0])"]).output()?;
    let architecture = if ARCH == "aarch64" { "arm64" } else { "x86_64" };
    let package = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    Ok(package.join("local/rapid").join(format!("aws-lambda-rie-{architecture}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_wins() {
        assert_eq!(newest_glibc(b"..GLIBC_2.2.5\0memcpy@GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE"), Some((2, 34)));
        assert_eq!(newest_glibc(b"no such name"), None);
    }
}
