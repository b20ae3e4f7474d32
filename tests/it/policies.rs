//! What each function may do at AWS is what its code does there, and on that alone: which calls there are is read in the
//! sources, who makes them is followed through them, and what is granted is read in the templates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use local::workspace_root;
use serde_json::Value;

use crate::support::functions;
use crate::templates::{DATA, FUNCTIONS, imports, references, resources, stack, suffix, texts};
use crate::tidy::{read, sources, statements};

/// Who calls AWS: a file for each service, and no other. The names under which the rest of the code has its type.
const CALLERS: [(&str, &str, &str, &[&str]); 3] = [
    ("s3", "shared/src/objects.rs", "ObjectStore", &["objects"]),
    ("sqs", "shared/src/queue.rs", "Queue", &["queue", "outbox", "sync", "warming"]),
    ("secretsmanager", "shared/src/secrets.rs", "SecretsManager", &["manager", "manager()"]),
];
/// Methods of these that nothing else has under their names.
const OWN_METHODS: [&str; 7] =
    ["ring", "ring_after", "ring_many", "get_range", "put_link", "missing_uploads", "delete_uploads"];
/// Calls that need a right of another name than theirs.
const OTHER_NAMES: [(&str, &str); 5] = [
    ("head_object", "GetObject"),
    ("head_bucket", "ListBucket"),
    ("list_objects_v2", "ListBucket"),
    ("delete_objects", "DeleteObject"),
    ("send_message_batch", "SendMessage"),
];
/// Where a function starts and is told what it works with.
const STARTS: [&str; 5] = [
    "shared/src/serve.rs",
    "shared/src/serve/mail.rs",
    "shared/src/work.rs",
    "shared/src/work/due.rs",
    "shared/src/work/mail.rs",
];
/// What mail functions share and calls the object store: by how a function names it.
const SHARED: [(&str, &str); 2] =
    [("mailbox::reading", "mailbox/src/reading.rs"), ("mailbox::outbox", "mailbox/src/outbox/write.rs")];
/// Who writes secrets, and the variable that names them.
const WRITERS: [(&str, &str); 2] = [("migrate", "MAIL_SECRET_ARN"), ("refresh-keys", "JWT_JWKS_SECRET_ARN")];

/// An action, and what it may be done to, by logical id.
type Grants = BTreeSet<(String, String)>;

/// A source without comments, tests and white space, by its functions. What stands between two belongs to the first.
fn bodies(source: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap().lines().map(str::trim);
    for line in code.filter(|line| !line.starts_with("//")) {
        let rest = ["pub ", "pub(crate) ", "async "].iter().fold(line, |line, word| line.trim_start_matches(word));
        if let Some(rest) = rest.strip_prefix("fn ") {
            name = rest.split(|c: char| !is_of_name(c)).next().unwrap().to_owned();
        }
        found.entry(name.clone()).or_default().extend(line.split_whitespace());
    }
    found
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The ends of a code's mentions of a text that is not the end of a longer name.
fn mentions<'a>(code: &'a str, text: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = code.match_indices(text).map(move |(at, _)| (&code[..at], &code[at + text.len()..]));
    all.filter(|(before, _)| !before.ends_with(is_of_name))
}

/// The bodies that one leads to, itself included. A free function is called without a path or a receiver.
fn reached<'a>(from: &'a str, all: &'a BTreeMap<String, String>, free_only: bool) -> Vec<&'a str> {
    let (mut reached, mut left, mut names) = (Vec::new(), vec![from], BTreeSet::new());
    while let Some(body) = left.pop() {
        reached.push(body);
        for (name, next) in all.iter().filter(|(name, _)| !name.is_empty()) {
            let call = format!("{name}(");
            let is_called = mentions(body, &call)
                .any(|(before, _)| !(free_only && (before.ends_with('.') || before.ends_with("::"))));
            if is_called && names.insert(name) {
                left.push(next);
            }
        }
    }
    reached
}

/// The calls of AWS in some code, whatever they are called: of an SDK by `client`, of the object store by whom they are
/// signed by.
fn aws_calls(code: &str) -> Vec<&str> {
    let of_client = ["client.", "client()."].into_iter().flat_map(|client| mentions(code, client));
    let calls = of_client.filter_map(|(_, rest)| rest.split_once("()")).map(|(call, _)| call);
    let signed = code.split("(self.signer()").map(|before| before.rsplit('.').next().unwrap());
    let signed = signed.take(code.matches("(self.signer()").count());
    calls.chain(signed).filter(|call| call.chars().all(is_of_name)).collect()
}

/// What sends a call, or makes a link of it: there is one for each.
const ENDS: [&str; 4] = [".send()", "self.send(", ".sign(LINK_LIFETIME)", ".sign_with_time("];

/// The rights that some code needs which calls AWS.
fn rights(service: &str, code: &str) -> BTreeSet<String> {
    let is_sent = ![".sign(", ".sign_with_time("].iter().any(|end| code.contains(end));
    let mut rights = BTreeSet::new();
    for call in aws_calls(code) {
        let known = OTHER_NAMES.iter().find(|(name, _)| *name == call).map(|(_, right)| (*right).to_owned());
        let pascal = || call.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        rights.insert(format!("{service}:{}", known.unwrap_or_else(pascal)));
        // Without it S3 does not say that an object is missing.
        if is_sent && ["get_object", "head_object"].contains(&call) {
            rights.insert("s3:ListBucket".to_owned());
        }
    }
    rights
}

/// What each method of a type needs that calls AWS.
fn methods(service: &str, file: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut bodies = bodies(&read(file));
    // Other types have one as well, and this one calls nobody.
    let new = bodies.remove("new").unwrap_or_default();
    assert_eq!(aws_calls(&new), Vec::<&str>::new(), "{file}");
    let of = |body: &str| reached(body, &bodies, false).into_iter().flat_map(|body| rights(service, body)).collect();
    let all = bodies.iter().map(|(name, body)| (name.clone(), of(body)));
    all.filter(|(_, rights): &(String, BTreeSet<String>)| !rights.is_empty()).collect()
}

/// All sources of what runs on Lambda.
fn all_sources() -> Vec<String> {
    let folders = ["shared/src", "mailbox/src", "mail/src", "https/src", "functions"];
    folders.iter().flat_map(|folder| sources(&workspace_root().join(folder))).collect()
}

#[test]
fn aws_is_called_by_three_files_and_under_names_that_are_known() {
    let mut count = 0;
    for (_, file, _, _) in CALLERS {
        let code: String = bodies(&read(file)).into_values().collect();
        let calls = aws_calls(&code);
        let ends: usize = ENDS.iter().map(|end| code.matches(end).count()).sum();
        assert_eq!(calls.len(), ends, "{file}: {calls:?}");
        count += calls.len();
    }
    assert!(count > 10, "{count}");
    let methods: Vec<_> = CALLERS.iter().map(|(service, file, ..)| methods(service, file)).collect();
    for path in all_sources().into_iter().filter(|path| !CALLERS.iter().any(|(_, file, ..)| path.ends_with(file))) {
        let code: String = bodies(&fs::read_to_string(&path).unwrap()).into_values().collect();
        // aws.rs makes the configuration of all.
        let other = [".send()", "rusty_s3", "aws_sdk_"].into_iter().find(|word| code.contains(word));
        assert!(other.is_none() || path.ends_with("shared/src/aws.rs"), "{path}: {other:?}");
        for ((_, _, kind, names), methods) in CALLERS.iter().zip(&methods) {
            for of_kind in ["", "&", "&'a", "Option<&"].map(|reference| format!(":{reference}{kind}")) {
                for (at, _) in code.match_indices(&of_kind) {
                    let name = code[..at].rsplit(|c: char| !is_of_name(c)).next().unwrap().trim_start_matches("pub");
                    // Or it is a path, or another type.
                    let is_other = code[at + of_kind.len()..].starts_with(|c| is_of_name(c) || c == ':');
                    assert!(is_other || name.is_empty() || names.contains(&name), "{path}: {name}");
                }
            }
            // What functions share and calls AWS is looked into; of issuer.rs its beginning.
            let mut calls = methods.keys().flat_map(|method| names.iter().map(move |name| format!("{name}.{method}(")));
            let is_known = path.contains("/functions/")
                || STARTS.iter().chain(SHARED.iter().map(|(_, file)| file)).any(|file| path.ends_with(file))
                || path.ends_with("shared/src/issuer.rs");
            let call = calls.find(|call| mentions(&code, call).next().is_some());
            assert!(is_known || call.is_none(), "{path}: {call:?}");
            // A method whose name is nobody else's has one of these receivers.
            for method in methods.keys().filter(|method| OWN_METHODS.contains(&method.as_str())) {
                let calls = code.matches(&format!(".{method}(")).count();
                let known: usize = names.iter().map(|name| mentions(&code, &format!("{name}.{method}(")).count()).sum();
                assert_eq!(calls, known, "{path}: {method}");
            }
        }
    }
}

/// The logical id that a value names; of a choice, what the stack makes itself.
fn named(value: &Value) -> String {
    let Some(map) = value.as_object() else { return value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned() };
    let (function, argument) = map.iter().next().unwrap();
    match function.as_str() {
        "Fn::If" => named(&argument[1]),
        "Fn::ImportValue" => exported(&suffix(argument, "${DataStack}-")),
        "Fn::Sub" => argument.as_str().unwrap().replace("${", "").replace(".Arn}", "").replace('}', ""),
        _ => references(value).pop_first().unwrap_or_else(|| panic!("{value}")),
    }
}

/// The logical id of what the data's stack exports under this name.
fn exported(name: &str) -> String {
    let mut outputs = stack(DATA)["Outputs"].as_object().unwrap().values().filter(|output| !output["Export"].is_null());
    let output = outputs.find(|output| suffix(&output["Export"]["Name"], "${AWS::StackName}-") == name);
    named(&output.unwrap_or_else(|| panic!("nothing exports {name}"))["Value"])
}

/// What statements grant. A key is named with what it may be used for.
fn granted(policies: &Value) -> Grants {
    let mut grants = Grants::new();
    for statement in statements(policies).into_iter().filter(|statement| statement["Effect"] == "Allow") {
        let resources = match &statement["Resource"] {
            Value::Array(resources) => resources.iter().collect(),
            resource => vec![resource],
        };
        for (action, resource) in
            texts(&statement["Action"]).iter().flat_map(|action| resources.iter().map(move |it| (action, it)))
        {
            let mut resource = named(resource);
            if action.starts_with("kms:") {
                let only = &statement["Condition"]["StringEquals"];
                let service = only["kms:ViaService"]["Fn::Sub"].as_str().unwrap().split('.').next().unwrap();
                let secret = &only["kms:EncryptionContext:SecretARN"];
                let purpose =
                    if secret.is_null() { service.to_owned() } else { format!("{service} {}", named(secret)) };
                resource = format!("{resource} for {purpose}");
            }
            grants.insert(((*action).to_owned(), resource));
        }
    }
    grants
}

/// What a role may do, by its own policies and by those that are attached to it.
fn grants_of(role: &str) -> Grants {
    let role_properties = &stack(FUNCTIONS)["Resources"][role]["Properties"];
    let attached = &role_properties["ManagedPolicyArns"];
    let mut grants = granted(&role_properties["Policies"]);
    let policy = |file: &str, id: &str| granted(&stack(file)["Resources"][id]["Properties"]);
    grants.extend(references(attached).iter().flat_map(|id| policy(FUNCTIONS, id)));
    grants.extend(imports(attached).iter().flat_map(|name| policy(DATA, &exported(name))));
    let names_it = |resource: &Value| {
        resource["Type"] == "AWS::IAM::ManagedPolicy" && references(&resource["Properties"]["Roles"]).contains(role)
    };
    grants.extend(
        resources(FUNCTIONS).filter(|(_, resource)| names_it(resource)).flat_map(|(id, _)| policy(FUNCTIONS, id)),
    );
    grants
}

/// Code that a function runs, and the file of it that functions share, where it is of one.
type Code = Vec<(String, Option<&'static str>)>;

/// The code that a function runs, as far as it may come to call AWS: its own, how it starts, and what it shares.
fn code_of(own: &str) -> Code {
    let mut starts: BTreeMap<String, String> = BTreeMap::new();
    for (name, body) in STARTS.iter().flat_map(|file| bodies(&read(file))) {
        starts.entry(name).or_default().push_str(&body);
    }
    // As `main` calls it.
    let own = own.replace("shared::serve", "serve").replace("shared::work_", "work_");
    let mut code: Code = reached(&own, &starts, true).into_iter().map(|body| (body.to_owned(), None)).collect();
    for (_, file) in SHARED.into_iter().filter(|(module, _)| own.contains(module)) {
        let all = bodies(&read(file));
        let mut found = reached(&own, &all, false).split_off(1);
        // What it calls nothing of, others call in its name.
        if found.is_empty() {
            found = all.values().map(String::as_str).collect();
        }
        code.extend(found.into_iter().map(|body| (body.to_owned(), Some(file))));
    }
    code
}

/// What of the bucket a method works on: what it or its caller makes the key of, or else the caller's file.
fn folder(method: &str, arguments: &str, file: Option<&str>) -> &'static str {
    let objects = bodies(&read(CALLERS[0].1));
    let near = format!("{}{arguments}", objects[method]);
    if near.contains("of_upload") {
        "uploads"
    } else if near.contains("of_account") || file.is_none_or(|file| read(file).contains("of_message")) {
        "mail"
    } else {
        "uploads"
    }
}

/// What a function's code needs.
fn needs_of(binary: &str, own: &str, properties: &Value) -> Grants {
    let variables = properties["Environment"]["Variables"].as_object().unwrap();
    let names = |end: &'static str| variables.iter().filter(move |(name, value)| name.ends_with(end) && **value != "");
    let code = code_of(own);
    let mut needs = Grants::new();
    let mut add = |action: &str, resource: String| _ = needs.insert((action.to_owned(), resource));
    for (service, file, _, receivers) in CALLERS {
        let methods = methods(service, file);
        let calls = receivers
            .iter()
            .flat_map(|receiver| methods.iter().map(move |(method, rights)| (receiver, method, rights)));
        for (receiver, method, rights) in calls {
            let call = format!("{receiver}.{method}(");
            let found = code.iter().flat_map(|(body, file)| mentions(body, &call).map(move |(_, rest)| (rest, *file)));
            for ((rest, file), right) in found.flat_map(|found| rights.iter().map(move |right| (found, right))) {
                match (service, right.as_str()) {
                    ("s3", "s3:ListBucket") => add(right, "MailBucket".to_owned()),
                    ("s3", _) => {
                        let folder = folder(method, rest.split(".await").next().unwrap(), file);
                        add(right, format!("MailBucket/{folder}/*"));
                        match right.as_str() {
                            "s3:GetObject" => add("kms:Decrypt", "Key for s3".to_owned()),
                            "s3:PutObject" => add("kms:GenerateDataKey", "Key for s3".to_owned()),
                            _ => {}
                        }
                    }
                    ("sqs", _) => {
                        // Where a name says nothing, it is any queue that the function knows.
                        let which = receiver.to_uppercase();
                        let is_any = !["SYNC", "OUTBOX"].contains(&which.as_str());
                        let urls = names("_QUEUE_URL").filter(|(name, _)| is_any || name.starts_with(&which));
                        urls.for_each(|(_, url)| add(right, named(url)));
                    }
                    (_, "secretsmanager:PutSecretValue") => {
                        let writer = WRITERS.iter().find(|(writer, _)| *writer == binary);
                        let (_, variable) = writer.unwrap_or_else(|| panic!("{binary} writes a secret"));
                        let secret = named(&variables[*variable]);
                        add("kms:GenerateDataKey", format!("Key for secretsmanager {secret}"));
                        add(right, secret);
                    }
                    _ => {}
                }
            }
        }
    }
    // Whoever has a way to secrets reads all that it is told of; the issuer's keys, whoever checks tokens or keeps them.
    let says = |words: &[&str]| code.iter().any(|(body, _)| words.iter().any(|word| body.contains(word)));
    let reads = says(&["SecretStore::new(", "manager.read("]);
    let reads_keys = says(&["Keys::new(", "KeySetConfig"]);
    for (name, arn) in names("SECRET_ARN") {
        if if name == "JWT_JWKS_SECRET_ARN" { reads_keys } else { reads } {
            let secret = named(arn);
            add("kms:Decrypt", format!("Key for secretsmanager {secret}"));
            add("secretsmanager:GetSecretValue", secret);
        }
    }
    needs
}

/// What Lambda does in a function's name.
fn needs_of_lambda(id: &str, properties: &Value) -> Grants {
    let log = named(&properties["LoggingConfig"]["LogGroup"]);
    let mut needs: Vec<(&str, String)> = vec![
        ("logs:CreateLogStream", log.clone()),
        ("logs:PutLogEvents", log),
        ("xray:PutTraceSegments", "*".to_owned()),
        ("xray:PutTelemetryRecords", "*".to_owned()),
    ];
    if properties["VpcConfig"].is_object() {
        let network = [
            "ec2:CreateNetworkInterface",
            "ec2:DeleteNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        ];
        needs.extend(network.map(|action| (action, "*".to_owned())));
    }
    for (_, source) in resources(FUNCTIONS)
        .filter(|(name, it)| it["Type"] == "AWS::Lambda::EventSourceMapping" && name.starts_with(id))
    {
        let queue = named(&source["Properties"]["EventSourceArn"]);
        let actions = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"];
        needs.extend(actions.map(|action| (action, queue.clone())));
    }
    needs.into_iter().map(|(action, resource)| (action.to_owned(), resource)).collect()
}

#[test]
fn each_function_may_do_what_its_code_does_and_no_more() {
    let paths = sources(&workspace_root().join("functions"));
    let mut wrong = Vec::new();
    for function in functions() {
        let (binary, id) = (&function.binary, &function.logical_id);
        let own = paths.iter().filter(|path| path.contains(&format!("/{binary}/src/")));
        let own: String = own.flat_map(|path| bodies(&fs::read_to_string(path).unwrap()).into_values()).collect();
        let properties = &stack(FUNCTIONS)["Resources"][id]["Properties"];
        let needs: Grants =
            needs_of(binary, &own, properties).into_iter().chain(needs_of_lambda(id, properties)).collect();
        let may = grants_of(&references(&properties["Role"]).pop_first().unwrap());
        wrong.extend(needs.difference(&may).map(|(action, on)| format!("{binary} may not {action} on {on}")));
        wrong.extend(may.difference(&needs).map(|(action, on)| format!("{binary} may {action} on {on} for nothing")));
    }
    assert_eq!(wrong, Vec::<String>::new(), "{wrong:#?}");
    // The SDK's crates, and rusty-s3, say which services there are at all.
    let manifest = read("Cargo.toml");
    let sdks = manifest.lines().filter_map(|line| line.strip_prefix("aws-sdk-")?.split(' ').next());
    let known = CALLERS.map(|(service, ..)| service);
    let s3 = manifest.contains("\nrusty-s3 = ").then_some("s3");
    assert_eq!(sdks.chain(s3).collect::<BTreeSet<_>>(), known.into(), "who calls that?");
}

/// What workers have by both of theirs is in the one for Lambda as well: the other one is for who rings.
#[test]
fn what_lambda_needs_of_a_queue_is_in_one_policy() {
    for (policy, queue) in [("WorkPolicy", "SyncQueue"), ("WorkOutboxPolicy", "OutboxQueue")] {
        let actions = ["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"];
        let expected: Grants = actions.map(|action| (action.to_owned(), queue.to_owned())).into();
        assert_eq!(granted(&stack(DATA)["Resources"][policy]["Properties"]), expected);
    }
}
