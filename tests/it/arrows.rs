//! The arrows of docs/ARCHITECTURE.md: which crate may know which, and no two files that import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What a crate of ours may depend on among ours; functions stand for all of them. Not its tests: they may use more.
const ARROWS: [(&str, &[&str]); 7] = [
    ("https", &[]),
    ("shared", &["https"]),
    ("mail", &[]),
    ("mailbox", &["mail", "shared"]),
    ("functions", &["https", "mailbox", "mail", "shared"]),
    ("local", &[]),
    ("xtask", &["local", "functions", "mail", "shared"]),
];

/// The crates of ours, by name: the manifest's folder, and what each needs to run.
fn crates() -> BTreeMap<String, (PathBuf, Vec<String>)> {
    let mut command = local::build::cargo_command(&["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let output = command.output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    packages
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().unwrap().iter().filter(|need| need["kind"].is_null());
            let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned();
            (text(&package["name"]), (folder, needs.map(|need| text(&need["name"])).collect()))
        })
        .collect()
}

#[test]
fn crates_depend_in_one_direction() {
    let crates = crates();
    let functions = local::workspace_root().join("functions");
    let kind = |name: &str| match crates.get(name) {
        Some((folder, _)) if folder.starts_with(&functions) => Some("functions".to_owned()),
        Some(_) => Some(name.to_owned()),
        None => None,
    };
    let mut seen = BTreeSet::new();
    for (name, (_, needs)) in &crates {
        let from = kind(name).unwrap();
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == from) else { continue };
        seen.insert(from);
        for to in needs.iter().filter_map(|need| kind(need)) {
            assert!(allowed.contains(&to.as_str()), "{name} must not depend on {to}");
        }
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

/// The modules of a crate, each with the modules whose items it imports. A module's tests count for nothing.
fn imports(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.extension() {
                None => folders.push(path),
                Some(extension) if extension == "rs" => files.push(path),
                Some(_) => {}
            }
        }
    }
    let module = |file: &Path| {
        let name = file.strip_prefix(source).unwrap().with_extension("");
        name.to_str().unwrap().replace('/', "::")
    };
    let modules: BTreeSet<String> = files.iter().map(|file| module(file)).collect();
    files
        .iter()
        .map(|file| {
            let own = module(file);
            let parent = own.rsplit_once("::").map_or("", |(parent, _)| parent);
            let code = fs::read_to_string(file).unwrap();
            let code = code.split("\n#[cfg(test)]\nmod tests").next().unwrap();
            let code: String =
                code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let mut imported = BTreeSet::new();
            for (start, prefix) in [("crate::", ""), ("super::", parent)] {
                for path in code.split(start).skip(1) {
                    for name in first_names(path) {
                        let name = if prefix.is_empty() { name } else { format!("{prefix}::{name}") };
                        // The longest path that is a file; what is none is an item of the parent.
                        let mut candidate = name.as_str();
                        while !modules.contains(candidate) {
                            match candidate.rsplit_once("::") {
                                Some((shorter, _)) => candidate = shorter,
                                None => break,
                            }
                        }
                        if modules.contains(candidate) && candidate != own {
                            imported.insert(candidate.to_owned());
                        }
                    }
                }
            }
            (own, imported)
        })
        .collect()
}

/// The paths at the start of a text such as `a::b;`, `a::{b, c::D}` or `{a::b, c}`.
fn first_names(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let head: String = text.chars().take_while(|c| is_path(*c)).collect();
    let rest = &text[head.len()..];
    let head = head.trim_end_matches(':');
    match rest.strip_prefix('{') {
        None => vec![head.to_owned()],
        Some(group) => {
            let (mut depth, mut names, mut name) = (1, Vec::new(), String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                match c {
                    ',' if depth == 1 => names.push(std::mem::take(&mut name)),
                    _ if depth == 0 => break,
                    c => name.push(c),
                }
            }
            names.push(name);
            let names = names.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
            let join = |name: String| if head.is_empty() { name } else { format!("{head}::{name}") };
            names.flat_map(|name| first_names(&join(name))).collect()
        }
    }
}

#[test]
fn no_two_files_import_each_other() {
    let root = local::workspace_root();
    let mut looked_at = 0;
    for name in ["shared", "mail", "mailbox", "local", "xtask"] {
        let source = root.join(name).join("src");
        if !source.exists() {
            continue;
        }
        let imports = imports(&source);
        looked_at += imports.values().map(BTreeSet::len).sum::<usize>();
        // What can be taken away, because all that it imports is away, is no part of a circle.
        let mut left = imports.clone();
        loop {
            let free: Vec<_> = left
                .iter()
                .filter(|(_, needs)| needs.iter().all(|need| !left.contains_key(need)))
                .map(|(module, _)| module.clone())
                .collect();
            if free.is_empty() {
                break;
            }
            left.retain(|module, _| !free.contains(module));
        }
        for (_, needs) in left.iter_mut() {
            needs.retain(|need| imports.contains_key(need));
        }
        assert!(left.is_empty(), "files of {name} import each other: {left:?}");
    }
    assert!(looked_at > 30, "{looked_at}");
}

#[test]
fn imports_are_read_in_every_form() {
    assert_eq!(first_names("a::b;"), ["a::b"]);
    assert_eq!(first_names("{a::b, c};"), ["a::b", "c"]);
    assert_eq!(first_names("a::{b, c::{D, E}};"), ["a::b", "a::c::D", "a::c::E"]);
}
