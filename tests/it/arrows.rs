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

/// Every crate that Cargo compiles for these options, with its version and features.
fn compiled(options: &[&str]) -> BTreeSet<String> {
    let mut command = local::build::cargo_command(&["tree", "--offline", "--prefix=none", "--format={p} {f}"]);
    let output = command.args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn nothing_is_compiled_twice_for_development_and_no_test_is_deployed() {
    let tests = compiled(&["--workspace", "--edges=normal,build,dev"]);
    let functions = compiled(&["--workspace", "--edges=normal,build"]);
    let commands = compiled(&["--package=xtask", "--edges=normal,build"]);
    let twice: Vec<_> = functions.union(&commands).filter(|unit| !tests.contains(*unit)).collect();
    assert!(twice.is_empty(), "with other features than the tests have: {twice:#?}");

    let deployed = compiled(&["--edges=normal,build"]);
    for (unit, feature) in [("tokio v", "test-util"), ("mail v", "testing"), ("shared v", "openapi")] {
        let of = |set: &BTreeSet<String>| set.iter().find(|line| line.starts_with(unit)).unwrap().clone();
        assert!(of(&tests).contains(feature), "{}", of(&tests));
        assert!(!of(&deployed).contains(feature), "{}", of(&deployed));
    }
}

/// A module, as its file has it. Its tests count for nothing.
#[derive(Debug)]
struct Module {
    /// The modules whose items it imports, but for those below it.
    imports: BTreeSet<String>,
    /// The modules below it that it uses.
    uses: BTreeSet<String>,
    /// Those below it that nobody beside its own can name.
    private: BTreeSet<String>,
}

/// The modules of a crate. Its root counts for nothing: it says which there are.
fn modules(source: &Path) -> BTreeMap<String, Module> {
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
            let mut module = Module { imports: BTreeSet::new(), uses: BTreeSet::new(), private: BTreeSet::new() };
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
                            module.imports.insert(candidate.to_owned());
                        }
                    }
                }
            }
            for (name, is_private) in children(&code) {
                let child = format!("{own}::{name}");
                if modules.contains(&child) {
                    module.uses.extend(mentions(&code, name).then(|| child.clone()));
                    module.private.extend(is_private.then_some(child));
                }
            }
            (own, module)
        })
        .filter(|(name, _)| !["lib", "main"].contains(&name.as_str()))
        .collect()
}

/// The modules that a file declares, and whether each is its own affair.
fn children(code: &str) -> impl Iterator<Item = (&str, bool)> {
    code.lines().filter_map(|line| {
        let (before, name) = line.trim().strip_suffix(';')?.split_once("mod ")?;
        match before.trim_end() {
            "" => Some((name, true)),
            before => before.starts_with("pub").then_some((name, false)),
        }
    })
}

/// Whether a path begins with this module: `name::x`, `self::name::x` or `self::{name::x}`.
fn mentions(code: &str, name: &str) -> bool {
    let begins = |at: usize| {
        let before = code[..at].strip_suffix("self::").unwrap_or(&code[..at]);
        !before.ends_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.'))
    };
    let named = code.match_indices(&format!("{name}::")).any(|(at, _)| begins(at));
    let whole = |path: &str| first_names(path).iter().any(|path| path.split("::").next() == Some(name));
    named || code.split("self::").skip(1).any(whole)
}

/// What is left of a graph when all is taken away again and again that imports nothing of what is left: its circles, and what
/// lies between them.
fn circles(mut graph: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let known: BTreeSet<String> = graph.keys().cloned().collect();
        graph.values_mut().for_each(|needs| needs.retain(|need| known.contains(need)));
        let needed: BTreeSet<String> = graph.values().flatten().cloned().collect();
        graph.retain(|module, needs| !needs.is_empty() && needed.contains(module));
        if graph.len() == known.len() {
            return graph;
        }
    }
}

/// From which modules one can be reached, itself included.
fn reaching(graph: &BTreeMap<String, BTreeSet<String>>, module: &str) -> BTreeSet<String> {
    let mut reaching = BTreeSet::from([module.to_owned()]);
    loop {
        let more = graph.iter().filter(|(_, needs)| !needs.is_disjoint(&reaching)).map(|(name, _)| name.clone());
        let more: Vec<_> = more.filter(|name| !reaching.contains(name)).collect();
        if more.is_empty() {
            return reaching;
        }
        reaching.extend(more);
    }
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

/// The circles of a crate that are not allowed. A module and its own private children are one thing to everybody else, cut
/// into files because it is long: the children may use what stands in the file above them, and it calls them. They are
/// exempt, as long as nobody else is in the circle, no child that others can name, and none among the children alone.
fn faults(modules: &BTreeMap<String, Module>) -> BTreeMap<String, BTreeSet<String>> {
    let imports = circles(modules.iter().map(|(name, module)| (name.clone(), module.imports.clone())).collect());
    if !imports.is_empty() {
        return imports;
    }
    let all = |module: &Module| module.imports.union(&module.uses).cloned().collect::<BTreeSet<_>>();
    let mut graph = circles(modules.iter().map(|(name, module)| (name.clone(), all(module))).collect());
    let is_own = |parent: &str, mut child: &str| loop {
        match child.rsplit_once("::") {
            _ if child == parent => return true,
            Some((above, _)) if modules.get(above).is_some_and(|above| above.private.contains(child)) => child = above,
            _ => return false,
        }
    };
    for parent in modules.keys() {
        // All that leads to it and that it leads to.
        let mut circle = reaching(&graph, parent);
        circle.retain(|module| reaching(&graph, module).contains(parent));
        if circle.iter().all(|module| is_own(parent, module)) {
            graph.retain(|module, _| !circle.contains(module));
        }
    }
    circles(graph)
}

#[test]
fn no_two_files_import_each_other() {
    let root = local::workspace_root();
    let (mut looked_at, mut within) = (0, 0);
    for name in ["shared/src", "https/src", "mail/src", "mailbox/src", "local/src", "xtask/src", "tests/it"] {
        let modules = modules(&root.join(name));
        looked_at += modules.values().map(|module| module.imports.len()).sum::<usize>();
        within += modules.values().map(|module| module.uses.len()).sum::<usize>();
        let faults = faults(&modules);
        assert!(faults.is_empty(), "files of {name} import each other: {faults:?}");
    }
    assert!(looked_at > 30 && within > 30, "{looked_at} {within}");
}

/// A module for the test below: its name, what it imports, what it uses of those below it, and which of those are private.
type File = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

#[test]
fn a_module_and_its_own_private_children_may_form_a_circle_and_nobody_else() {
    let crate_of = |files: &[File]| {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        files
            .iter()
            .map(|(name, imports, uses, private)| {
                ((*name).to_owned(), Module { imports: set(imports), uses: set(uses), private: set(private) })
            })
            .collect::<BTreeMap<_, _>>()
    };
    let own: &[&str] = &["a::x"];
    let allowed: [&[File]; 3] = [
        &[("a", &[], own, own), ("a::x", &["a"], &[], &[])],
        &[("a", &[], own, own), ("a::x", &[], &["a::x::y"], &["a::x::y"]), ("a::x::y", &["a"], &[], &[])],
        &[("a", &["b"], own, own), ("a::x", &["a", "b"], &[], &[]), ("b", &[], &[], &[]), ("c", &["a"], &[], &[])],
    ];
    for files in allowed {
        assert!(faults(&crate_of(files)).is_empty(), "{files:?}");
    }
    let refused: [&[File]; 5] = [
        &[("a", &["b"], &[], &[]), ("b", &["a"], &[], &[])],
        // Others can name the child.
        &[("a", &[], own, &[]), ("a::x", &["a"], &[], &[])],
        // Somebody else is in the circle.
        &[("a", &[], own, own), ("a::x", &["b"], &[], &[]), ("b", &["a"], &[], &[])],
        // The children without their parent.
        &[
            ("a", &[], &["a::x", "a::y"], &["a::x", "a::y"]),
            ("a::x", &["a::y"], &[], &[]),
            ("a::y", &["a::x"], &[], &[]),
        ],
        // One circle that is allowed, and in another module one that is not.
        &[("a", &[], own, own), ("a::x", &["a"], &[], &[]), ("b", &["a"], &["b::z"], &[]), ("b::z", &["b"], &[], &[])],
    ];
    for files in refused {
        assert!(!faults(&crate_of(files)).is_empty(), "{files:?}");
    }
}

#[test]
fn children_are_found_and_what_is_used_of_them() {
    let code = "mod a;\n    pub(crate) mod b;\nmod c {\n}\npub mod d;\nuse self::{a::X, e};\nlet f = x.b::<u8>() + other::d::y() + b::z();";
    assert_eq!(children(code).collect::<Vec<_>>(), [("a", true), ("b", false), ("d", false)]);
    let used: Vec<_> = ["a", "b", "c", "d", "e", "other"].into_iter().filter(|name| mentions(code, name)).collect();
    assert_eq!(used, ["a", "b", "e", "other"]);
}

#[test]
fn imports_are_read_in_every_form() {
    assert_eq!(first_names("a::b;"), ["a::b"]);
    assert_eq!(first_names("{a::b, c};"), ["a::b", "c"]);
    assert_eq!(first_names("a::{b, c::{D, E}};"), ["a::b", "a::c::D", "a::c::E"]);
}
