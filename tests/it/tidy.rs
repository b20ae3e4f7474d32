//! What must agree across files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::functions;

pub fn read(path: &str) -> String {
    fs::read_to_string(local::workspace_root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Folder of each function in `functions/`, below what they are about.
fn folders() -> BTreeMap<String, PathBuf> {
    let list = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let subjects = list(&local::workspace_root().join("functions"));
    let folders = subjects.iter().flat_map(|subject| list(subject));
    folders.map(|folder| (folder.file_name().unwrap().to_str().unwrap().to_owned(), folder.clone())).collect()
}

#[test]
fn every_function_has_one_resource_a_route_an_event_file_and_a_row_in_the_readme() {
    let in_template: Vec<_> = functions().into_iter().map(|function| function.binary).collect();
    assert_eq!(in_template.iter().cloned().collect::<BTreeSet<_>>(), folders().into_keys().collect());
    assert_eq!(in_template.len(), folders().len(), "a function has two resources");
    let readme = read("README.md");
    for function in functions() {
        assert!(readme.contains(&format!("| `{}` |", function.binary)), "{} has no row in README.md", function.binary);
        // Those are invoked by name alone.
        if !["migrate", "reseal-secrets"].contains(&function.binary.as_str()) {
            let two = ["docs", "health", "health-ready"].contains(&function.binary.as_str());
            let events = function.routes.len() + function.queues.len() + function.schedules.len();
            assert_eq!(events, if two { 2 } else { 1 }, "{}", function.binary);
            assert!(
                Path::new(&local::workspace_root().join(format!("tests/events/{}.json", function.binary))).exists()
            );
        }
        let expected: String = function.binary.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        assert_eq!(function.logical_id, format!("{expected}Function"));
    }
}

/// Path to methods, of the template.
fn routes() -> BTreeMap<String, BTreeSet<String>> {
    let mut routes = BTreeMap::<String, BTreeSet<String>>::new();
    for route in functions().into_iter().flat_map(|function| function.routes).filter(|route| route.path != "$default") {
        routes.entry(route.path).or_default().insert(route.method);
    }
    routes
}

#[test]
fn the_default_route_knows_the_routes_of_the_template() {
    let known: BTreeMap<String, BTreeSet<String>> = default_route::ROUTES
        .iter()
        .map(|(path, methods)| {
            let methods = methods.split(", ").filter(|method| *method != "OPTIONS").map(str::to_owned);
            ((*path).to_owned(), methods.collect())
        })
        .collect();
    assert_eq!(known, routes());
}

#[test]
fn cargo_lambda_watch_has_the_routes_of_the_template() {
    let manifest = read("Cargo.toml");
    let router = manifest.split("[workspace.metadata.lambda.watch.router]").nth(1).unwrap();
    for function in functions() {
        for route in function.routes.iter().filter(|route| route.path != "$default") {
            let entry = router
                .split(&format!("\n\"{}\" = ", route.path))
                .nth(1)
                .unwrap_or_else(|| panic!("{} is missing", route.path));
            let entry = entry.split("\n\"").next().unwrap();
            let listed = format!("method = \"{}\", function = \"{}\"", route.method, function.binary);
            assert!(entry.contains(&listed), "{route:?}: {entry}");
            assert!(
                entry.contains(r#"method = "OPTIONS", function = "default-route""#),
                "{}: no preflight",
                route.path
            );
        }
    }
}

/// The variables that `config.rs` reads, but for those that Lambda itself sets.
fn variables() -> BTreeSet<String> {
    let source = read("shared/src/config.rs");
    let code = source.split("#[cfg(test)]").next().unwrap();
    let words =
        code.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).filter(|word| word.contains('_') && word.len() > 5);
    let known = words.filter(|word| code.contains(&format!("\"{word}\"")) && !word.starts_with("AWS_"));
    known.map(str::to_owned).collect()
}

#[test]
fn every_variable_stands_in_the_configuration_the_readme_and_the_example() {
    let (readme, example) = (read("README.md"), read(".env.example"));
    assert!(variables().len() >= 10, "{:?}", variables());
    for variable in variables() {
        assert!(readme.contains(&format!("| `{variable}` |")), "{variable} has no row in README.md");
        assert!(example.contains(&format!("{variable}=")), "{variable} is not in .env.example");
    }
}

/// What `cargo dev` has no use for, as it makes the thing itself: secrets in AWS, the queues and the bucket.
const OF_DEPLOYED_FUNCTIONS: [&str; 10] = [
    "MAIL_BUCKET",
    "MAIL_SECRET_ARN",
    "NETWORK_SECRET_ARN",
    "OUTBOX_QUEUE_URL",
    "OWNER_SECRET_ARN",
    "PROVIDERS_SECRET_ARN",
    "READER_SECRET_ARN",
    "SCHEDULER_SECRET_ARN",
    "SECRET_ARN",
    "SYNC_QUEUE_URL",
];

#[test]
fn cargo_dev_heeds_every_variable_of_the_example_that_is_not_of_deployed_functions_alone() {
    let dev = read("xtask/src/dev.rs");
    let passed_on = dev.split("const PASSED_ON:").nth(1).unwrap().split("];").next().unwrap();
    let sources = dev.clone() + &read("xtask/src/functions.rs");
    let example = read(".env.example");
    let lines = example.lines().map(|line| line.trim_start_matches("# "));
    let names: Vec<_> = lines.filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(names.len() >= 40, "{names:?}");
    // `also` asks the settings, too.
    let heeded = |name: &&str| {
        let calls = ["get", "also"].map(|call| format!("{call}(\"{name}\""));
        passed_on.contains(&format!("\"{name}\"")) || calls.iter().any(|call| sources.contains(call))
    };
    let others: BTreeSet<_> = names.into_iter().filter(|name| !heeded(name)).collect();
    assert_eq!(others, BTreeSet::from(OF_DEPLOYED_FUNCTIONS));
}

/// A template's text. Its tags (`!Ref`) read as if they were not there.
fn template(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap()
}

#[test]
fn the_template_sets_every_variable_and_nothing_can_allow_header_authentication() {
    let template = template("template.yaml");
    let environments: Vec<_> = template["Resources"]
        .as_object()
        .unwrap()
        .values()
        .chain([&json!({"Properties": template["Globals"]["Function"]})])
        .filter_map(|resource| resource["Properties"]["Environment"]["Variables"].as_object().cloned())
        .collect();
    for variable in variables() {
        let values: Vec<_> = environments.iter().filter_map(|environment| environment.get(&variable)).collect();
        assert!(!values.is_empty(), "{variable} is not in template.yaml");
        if variable == "ALLOW_HEADER_AUTH" {
            assert!(values.iter().all(|value| **value == "false"), "{values:?}");
        }
    }
    // Quoted, so a reference to a parameter of that name would not pass for the constant.
    let lines: Vec<_> = read("template.yaml").lines().map(|line| line.trim().to_owned()).collect();
    for line in lines.iter().filter(|line| line.contains("ALLOW_HEADER_AUTH")) {
        assert_eq!(line, "ALLOW_HEADER_AUTH: \"false\"");
    }
}

#[test]
fn no_statement_allows_a_wildcard_action_on_a_wildcard_resource() {
    let files = ["template.yaml", "data.yaml", "rotation.yaml", "bootstrap.yaml"].map(template);
    let mut seen = 0;
    for (id, resource) in files.iter().flat_map(|file| file["Resources"].as_object().unwrap()) {
        for statement in statements(resource).into_iter().filter(|statement| statement["Effect"] == "Allow") {
            seen += 1;
            let any = |key: &str, of: fn(&str) -> bool| match &statement[key] {
                Value::Array(values) => values.iter().filter_map(Value::as_str).any(of),
                value => value.as_str().is_some_and(of),
            };
            // In the policy of a key, `*` is that key.
            let whole = resource["Type"] != "AWS::KMS::Key" && any("Resource", |resource| resource == "*");
            assert!(!(whole && any("Action", |action| action.contains('*'))), "{id}: {statement}");
            let narrow = statement.get("NotAction").is_none() && statement.get("NotResource").is_none();
            assert!(narrow, "{id}: {statement}");
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Every policy statement anywhere in a value.
pub fn statements(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(map) if map.contains_key("Effect") => vec![value],
        Value::Object(map) => map.values().flat_map(statements).collect(),
        Value::Array(values) => values.iter().flat_map(statements).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn no_stage_is_configured_with_a_secret() {
    for line in read("samconfig.toml").lines().filter(|line| !line.starts_with('#')) {
        let lower = line.to_lowercase();
        let name = ["password", "secret", "token", "jwt", "database_url", "redis_url", "akia"];
        assert!(!name.iter().any(|name| lower.contains(name)), "{line}");
        let longest = line.split(|c: char| !c.is_ascii_alphanumeric()).map(str::len).max().unwrap_or(0);
        assert!(longest < 32, "this looks random: {line}");
    }
}

#[test]
fn workflows_use_actions_by_hash() {
    let files = fs::read_dir(local::workspace_root().join(".github/workflows")).unwrap();
    let mut pinned = 0;
    for file in files.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()) {
        for line in file.lines().filter(|line| line.contains("uses:")) {
            let action = line.split("uses:").nth(1).unwrap().split_whitespace().next().unwrap();
            let hash = action.split_once('@').map_or("", |(_, hash)| hash);
            let is_hash = hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_hash || action.starts_with("./"), "{line}");
            pinned += usize::from(is_hash);
        }
        // What is deployed is built by what was verified.
        let is_version = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let is_requirement = |word: &&str| word.split_once("==").is_some_and(|(_, version)| is_version(version));
        for requirement in file.split_whitespace().filter(is_requirement) {
            let pins = read("xtask/src/sam.rs") + &read("local/src/tools.rs");
            let known = pins.contains(&format!("\"{requirement}\""));
            assert!(known, "{requirement} is another version than in xtask/src/sam.rs and tools.rs");
        }
    }
    assert!(pinned > 0);
}

#[test]
fn one_file_reads_the_environment() {
    for source in sources(&local::workspace_root().join("shared/src"))
        .iter()
        .chain(&sources(&local::workspace_root().join("functions")))
    {
        // A build script runs where it is built, and Cargo speaks to it in this way alone.
        if !source.ends_with("shared/src/variables.rs") && !source.ends_with("/build.rs") {
            let text = fs::read_to_string(source).unwrap();
            assert!(!text.contains("env::var"), "{source}");
        }
    }
}

pub fn sources(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path {
            path if path.is_dir() => sources(&path),
            path if path.extension().is_some_and(|extension| extension == "rs") => vec![path.display().to_string()],
            _ => Vec::new(),
        })
        .collect()
}

#[test]
fn the_log_hears_each_crate_that_says_something_at_the_configured_level_and_names_no_other() {
    let log = read("shared/src/log.rs");
    let list = log.split("const OURS:").nth(1).unwrap().split(';').nth(1).unwrap();
    // The first is the crate of the log itself.
    let listed: BTreeSet<_> = list.split('"').skip(3).step_by(2).map(str::to_owned).collect();
    let beside = ["https", "mail", "mailbox"].map(|name| (name.to_owned(), local::workspace_root().join(name)));
    let says_something = |folder: &Path| {
        let files = sources(&folder.join("src"));
        files.iter().any(|file| fs::read_to_string(file).unwrap().contains("tracing::"))
    };
    let crates = folders().into_iter().chain(beside).filter(|(_, folder)| says_something(folder));
    assert_eq!(listed, crates.map(|(name, _)| name.replace('-', "_")).collect());
}

#[test]
fn every_migration_is_recorded_under_its_file_name_in_order() {
    let mut files: Vec<_> = fs::read_dir(local::workspace_root().join("migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let runner = migrate::runner();
    let mut embedded: Vec<_> =
        runner.get_migrations().iter().map(|migration| (migration.version(), format!("{migration}.sql"))).collect();
    embedded.sort();
    assert_eq!(
        embedded.iter().map(|(version, _)| *version).collect::<Vec<_>>(),
        (1..=files.len().try_into().unwrap()).collect::<Vec<_>>()
    );
    assert_eq!(embedded.into_iter().map(|(_, name)| name).collect::<BTreeSet<_>>(), files.into_iter().collect());
}

#[test]
fn the_reference_has_a_throttle_of_its_own() {
    let settings = template("template.yaml")["Resources"]["HttpApi"]["Properties"]["RouteSettings"].clone();
    let docs = functions().into_iter().find(|function| function.binary == "docs").unwrap();
    assert_eq!(settings.as_object().unwrap().len(), docs.routes.len());
    for route in docs.routes {
        let settings = &settings[format!("{} {}", route.method, route.path)];
        let limits = [&settings["ThrottlingRateLimit"], &settings["ThrottlingBurstLimit"]];
        assert!(limits.iter().all(|limit| limit.as_u64().is_some_and(|n| n > 0)), "{route:?}: {settings}");
    }
}

#[test]
fn openapi_json_is_what_the_code_says() {
    let fresh = openapi::document().unwrap();
    assert!(fresh == read("openapi.json"), "openapi.json is stale: run `cargo openapi` and commit it");
}

#[test]
fn openapi_json_has_the_routes_of_the_template() {
    let document: serde_json::Value = serde_json::from_str(&read("openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let documented: BTreeMap<String, BTreeSet<String>> = paths
        .map(|(path, methods)| {
            (path.clone(), methods.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect())
        })
        .collect();
    assert_eq!(documented, routes());
}

#[test]
fn the_readme_has_a_row_for_each_operation_of_openapi_json_with_its_statuses() {
    let readme = read("README.md");
    let table = readme.split("\n## The API\n\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut rows = BTreeMap::new();
    for row in table.lines().skip(2) {
        let [call, answers, refusals]: [&str; 3] = row.split(" | ").collect::<Vec<_>>().try_into().unwrap();
        let words = [answers, refusals].join(" ");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric());
        let statuses = words.filter(|word| word.len() == 3).filter_map(|word| word.parse::<u16>().ok());
        let statuses: BTreeSet<_> = statuses.collect();
        for operation in call.split('`').skip(1).step_by(2) {
            let mut statuses = statuses.clone();
            statuses.insert(500);
            if operation.contains(" /api/") {
                statuses.extend([401, 429, 503]);
            }
            rows.insert(operation.split('?').next().unwrap().to_owned(), statuses);
        }
    }
    let document: Value = serde_json::from_str(&read("openapi.json")).unwrap();
    let mut documented = BTreeMap::<String, BTreeSet<u16>>::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let statuses = operation["responses"].as_object().unwrap().keys();
            let statuses = statuses.map(|status| status.parse().unwrap()).collect();
            documented.insert(format!("{} {path}", method.to_uppercase()), statuses);
        }
    }
    assert_eq!(rows, documented);
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = read("docs/SECURITY.md");
    let named: Vec<_> = page.split('`').filter_map(|word| word.split_once(".rs::")).collect();
    assert!(named.len() >= 30, "{named:?}");
    for (file, test) in named {
        let path = if file.contains('/') { format!("{file}.rs") } else { format!("tests/it/{file}.rs") };
        assert!(read(&path).contains(&format!("fn {test}(")), "{path} has no {test}");
    }
}

#[test]
fn the_map_has_every_room_and_no_other() {
    let map = read("docs/ARCHITECTURE.md");
    let root = local::workspace_root();
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        let room = member.split('/').next().unwrap();
        assert!(map.contains(&format!("`{room}/")), "docs/ARCHITECTURE.md does not know {room}");
    }
    // Words in code style that have a slash and are no pattern, arrow or route are paths; `src/` is of many packages.
    let words = map.split('`').skip(1).step_by(2).filter(|word| !word.starts_with('/') && !word.starts_with("src/"));
    let paths = words.filter(|word| word.contains('/') && !word.contains([' ', '<', '{']));
    let mut looked_at = 0;
    for path in paths {
        let beside = [root.join(path), root.join("shared/src").join(path), root.join("tests").join(path)];
        assert!(beside.iter().any(|path| path.exists()), "docs/ARCHITECTURE.md names {path}, which is not there");
        looked_at += 1;
    }
    assert!(looked_at >= 20, "{looked_at}");
}

#[test]
fn every_crate_forbids_unsafe_code() {
    assert!(read("Cargo.toml").contains("unsafe_code = \"forbid\""));
    let others = [
        "benches",
        "benches/floor",
        "fuzz",
        "https",
        "local",
        "mail",
        "mailbox",
        "openapi",
        "shared",
        "tests",
        "xtask",
    ];
    let others = others.map(|name| local::workspace_root().join(name));
    for folder in folders().into_values().chain(others) {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder:?}");
    }
}

/// Whether a schema of the reference has a password in it, whatever it refers to included.
fn holds_a_password(document: &Value, schema: &Value) -> bool {
    match schema {
        Value::Object(members) if members.get("format").is_some_and(|format| format == "password") => true,
        Value::Object(members) => members.iter().any(|(name, member)| match (name.as_str(), member.as_str()) {
            ("$ref", Some(place)) => holds_a_password(document, document.pointer(&place[1..]).unwrap()),
            _ => holds_a_password(document, member),
        }),
        Value::Array(members) => members.iter().any(|member| holds_a_password(document, member)),
        _ => false,
    }
}

/// Who stores or opens secrets has a variable with a key for them or a login at providers, who is only sent them says so in the reference,
/// and whatever misses its path comes to the default route.
#[test]
fn whoever_has_secrets_in_hand_wipes_what_it_frees_and_nobody_else_pays_for_that() {
    let resources = template("template.yaml")["Resources"].clone();
    let document: Value = serde_json::from_str(&read("openapi.json")).unwrap();
    let is_sent_one = |method: &str, path: &str| {
        let body = &document["paths"][path][method.to_lowercase()]["requestBody"];
        path == "$default" || holds_a_password(&document, body)
    };
    let (mut has_secrets, mut wipes) = (BTreeSet::new(), BTreeSet::new());
    for function in functions() {
        let variables = &resources[&function.logical_id]["Properties"]["Environment"]["Variables"];
        let keys = ["MAIL_SECRET_ARN", "PROVIDERS_SECRET_ARN", "SEALING_PUBLIC_KEY"];
        if keys.iter().any(|key| variables.get(key).is_some())
            || function.routes.iter().any(|route| is_sent_one(&route.method, &route.path))
        {
            has_secrets.insert(function.binary.clone());
        }
        let main = fs::read_to_string(folders()[&function.binary].join("src/main.rs")).unwrap();
        if main.contains("#[global_allocator]\nstatic ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);") {
            wipes.insert(function.binary);
        }
    }
    assert!(has_secrets.contains("test-settings") && has_secrets.contains("get-message"), "{has_secrets:?}");
    assert_eq!(wipes, has_secrets);
}

#[test]
fn the_licence_is_the_same_wherever_it_stands() {
    const LICENCE: &str = "Copyright 2026 MetaBuilder. All rights reserved.";
    for file in ["LICENSE", "clients/typescript/LICENSE", "clients/web/LICENSE"] {
        assert_eq!(read(file).trim_end(), LICENCE, "{file}");
    }
    assert!(read("README.md").contains(LICENCE.trim_end_matches('.')));
    let document: Value = serde_json::from_str(&read("openapi.json")).unwrap();
    assert_eq!(document["info"]["license"]["name"], LICENCE);
    for package in ["clients/typescript/package.json", "clients/web/package.json"] {
        let package: Value = serde_json::from_str(&read(package)).unwrap();
        assert_eq!(package["license"], "SEE LICENSE IN LICENSE");
    }
    let mut command = local::build::cargo_command(&["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "{}", packages.len());
    for package in packages {
        let file = package["license_file"].as_str().unwrap_or_default();
        assert!(package["license"].is_null() && file.ends_with("LICENSE"), "{}", package["name"]);
    }
}
