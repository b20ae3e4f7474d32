//! What can be known of the stacks without an account: the templates after the transform, whether every reference leads
//! somewhere and in no circle, whether there is room, and whether each role may do what is asked of it and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use local::tools::{MOTO, SAM, python_tool};
use local::workspace_root;
use serde_json::{Value, json};
use shared::account::state::State;
use shared::objects::LINK_LIFETIME;
use shared::upload::PUT_LIFETIME;

use crate::tidy::{read, sources, statements};

pub const FUNCTIONS: &str = "template.yaml";
pub const DATA: &str = "data.yaml";
const BOOTSTRAP: &str = "bootstrap.yaml";
const TEMPLATES: [&str; 4] = [FUNCTIONS, DATA, "rotation.yaml", BOOTSTRAP];

/// CloudFormation takes 500 resources in a stack. The rest is room for a release that needs more before it needs less.
const MOST_RESOURCES: usize = 450;
/// How many functions the stack is meant to carry.
const MOST_FUNCTIONS: usize = 45;
/// CloudWatch's hard limit for one alarm.
const MOST_METRICS_OF_AN_ALARM: usize = 10;
/// IAM's limit for a managed policy, in characters without white space.
const MOST_OF_A_POLICY: usize = 6144;

/// What `expand_templates.py` says: `stacks` by file, `permissions` of the handlers by resource type.
static EXPANDED: LazyLock<Value> = LazyLock::new(|| {
    let mut command = Command::new(python_tool("python3", SAM).unwrap());
    command.current_dir(workspace_root()).arg("tests/it/expand_templates.py").args(TEMPLATES);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
});

pub fn stack(file: &str) -> &'static Value {
    &EXPANDED["stacks"][file]
}

pub fn resources(file: &str) -> impl Iterator<Item = (&'static String, &'static Value)> {
    stack(file)["Resources"].as_object().unwrap().iter()
}

fn names(file: &str, section: &str) -> BTreeSet<String> {
    stack(file)[section].as_object().into_iter().flat_map(|section| section.keys().cloned()).collect()
}

/// The texts in a value that is one text or a list of them.
pub fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    }
}

/// Every object with one member, which is what an intrinsic function is: its name and argument.
fn intrinsics<'a>(value: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    match value {
        Value::Object(map) => {
            if let (1, Some((name, argument))) = (map.len(), map.iter().next()) {
                found.push((name, argument));
            }
            map.values().for_each(|value| intrinsics(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| intrinsics(value, found)),
        _ => {}
    }
}

fn intrinsics_of(value: &Value) -> Vec<(&str, &Value)> {
    let mut found = Vec::new();
    intrinsics(value, &mut found);
    found
}

/// The names of resources and parameters that a value refers to, by `Ref`, `Fn::GetAtt` or `Fn::Sub`.
pub fn references(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (function, argument) in intrinsics_of(value) {
        match (function, argument) {
            ("Ref", Value::String(name)) => _ = names.insert(name.clone()),
            ("Fn::GetAtt", argument) => {
                let name = argument.as_str().or_else(|| argument[0].as_str()).unwrap();
                names.insert(name.split('.').next().unwrap().to_owned());
            }
            ("Fn::Sub", argument) => {
                let text = argument.as_str().or_else(|| argument[0].as_str()).unwrap();
                let own = argument[1].as_object();
                for name in text.split("${").skip(1).filter_map(|rest| rest.split('}').next()) {
                    let name = name.split('.').next().unwrap();
                    if !name.starts_with('!') && !own.is_some_and(|own| own.contains_key(name)) {
                        names.insert(name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.starts_with("AWS::"));
    names
}

#[test]
fn every_reference_leads_somewhere() {
    for file in TEMPLATES {
        let (resources, parameters) = (names(file, "Resources"), names(file, "Parameters"));
        let (conditions, mappings) = (names(file, "Conditions"), names(file, "Mappings"));
        let refers = references(stack(file));
        assert!(refers.len() > 4, "{file}: {refers:?}");
        for name in refers {
            assert!(resources.contains(&name) || parameters.contains(&name), "{file}: there is no {name}");
        }
        for (function, argument) in intrinsics_of(stack(file)) {
            match (function, argument) {
                ("Fn::If", Value::Array(list)) => {
                    assert!(conditions.contains(list[0].as_str().unwrap()), "{file}: {argument}");
                }
                ("Condition", Value::String(name)) => assert!(conditions.contains(name), "{file}: {name}"),
                ("Fn::FindInMap", Value::Array(list)) => {
                    assert!(mappings.contains(list[0].as_str().unwrap()), "{file}: {argument}");
                }
                _ => {}
            }
        }
        for (id, resource) in self::resources(file) {
            for name in texts(&resource["DependsOn"]) {
                assert!(resources.contains(name), "{file}: {id} depends on {name}");
            }
            for name in texts(&resource["Condition"]) {
                assert!(conditions.contains(name), "{file}: {id} has the condition {name}");
            }
        }
        // The SAM CLI takes the one for the other, and ends where the parameter is a list.
        let outputs = names(file, "Outputs");
        assert_eq!(outputs.intersection(&parameters).collect::<Vec<_>>(), Vec::<&String>::new(), "{file}");
        for parameter in parameters {
            assert!(references(stack(file)).contains(&parameter), "{file}: nobody uses the parameter {parameter}");
        }
    }
}

#[test]
fn nothing_waits_for_itself() {
    for file in TEMPLATES {
        let all = names(file, "Resources");
        let mut waits: BTreeMap<&String, BTreeSet<String>> = resources(file)
            .map(|(id, resource)| {
                let mut on = references(resource);
                on.extend(texts(&resource["DependsOn"]).into_iter().map(str::to_owned));
                on.retain(|name| all.contains(name));
                (id, on)
            })
            .collect();
        // What waits for nobody that is left can be made.
        while let Some(id) = waits.iter().find(|(_, on)| on.is_empty()).map(|(id, _)| *id) {
            waits.remove(id);
            waits.values_mut().for_each(|on| _ = on.remove(id));
        }
        assert!(waits.is_empty(), "{file}: {waits:?}");
    }
}

/// The name of an import or export after the name of the data's stack.
pub fn suffix(name: &Value, stack: &str) -> String {
    let text = name["Fn::Sub"].as_str().unwrap_or_else(|| panic!("{name}"));
    text.strip_prefix(stack).unwrap_or_else(|| panic!("{text} does not begin with {stack}")).to_owned()
}

pub fn imports(value: &Value) -> BTreeSet<String> {
    let found = intrinsics_of(value).into_iter().filter(|(function, _)| *function == "Fn::ImportValue");
    found.map(|(_, name)| suffix(name, "${DataStack}-")).collect()
}

#[test]
fn every_import_is_exported() {
    let outputs = stack(DATA)["Outputs"].as_object().unwrap().values().filter(|output| !output["Export"].is_null());
    let exports: BTreeSet<_> = outputs.map(|output| suffix(&output["Export"]["Name"], "${AWS::StackName}-")).collect();
    let imports = imports(stack(FUNCTIONS));
    assert!(imports.len() > 10, "{imports:?}");
    assert_eq!(imports, exports, "what is exported and not imported can never be changed, for nothing");
}

#[test]
fn the_data_stands_alone_and_the_functions_leave_nothing_behind() {
    for (id, resource) in resources(DATA) {
        assert!(
            !resource["Type"].as_str().unwrap().contains("::Lambda::"),
            "{id} is code, and changes with each release"
        );
    }
    assert_eq!(imports(stack(DATA)), BTreeSet::new());
    let made = [FUNCTIONS, "rotation.yaml"].into_iter().flat_map(resources);
    // The transform keeps old versions of a function, and with it they go.
    for (id, resource) in made.filter(|(_, resource)| resource["Type"] != "AWS::Lambda::Version") {
        for policy in ["DeletionPolicy", "UpdateReplacePolicy"] {
            assert!(
                [Value::Null, "Delete".into()].contains(&resource[policy]),
                "{id} would be in the way of the next stack"
            );
        }
    }
    // And what cannot be made anew stays, or leaves a snapshot.
    let kept = ["Database", "MailSecret", "ProvidersSecret", "MailBucket", "Key"];
    let stays = resources(DATA).filter(|(_, it)| !it["DeletionPolicy"].is_null() && it["DeletionPolicy"] != "Delete");
    assert_eq!(stays.map(|(id, _)| id.as_str()).collect::<BTreeSet<_>>(), kept.into());
}

#[test]
fn every_log_is_kept_for_as_long_as_the_stage_says_and_no_longer() {
    let mut count = 0;
    for file in TEMPLATES {
        for (id, log) in resources(file).filter(|(_, resource)| resource["Type"] == "AWS::Logs::LogGroup") {
            let days = &log["Properties"]["RetentionInDays"]["Fn::FindInMap"];
            let of = if id == "ApiLogGroup" { "AccessLogDays" } else { "LogDays" };
            assert_eq!(*days, json!(["Stages", {"Ref": "Stage"}, of]), "{file}: {id}");
            count += 1;
        }
        for (stage, values) in stack(file)["Mappings"]["Stages"].as_object().into_iter().flatten() {
            assert!(values["LogDays"].as_u64().is_some_and(|days| (1..=30).contains(&days)), "{file}: {stage}");
        }
    }
    assert!(count > functions().count());
    for (id, function) in functions() {
        let own = references(&function["Properties"]["LoggingConfig"]["LogGroup"]);
        assert_eq!(
            own,
            BTreeSet::from([id.replace("Function", "LogGroup")]),
            "Lambda would make {id} one that is kept for ever"
        );
    }
}

#[test]
fn the_bucket_forgets_messages_after_a_month_and_shows_itself_to_nobody() {
    let of = |id: &str| &stack(DATA)["Resources"][id]["Properties"];
    let bucket = of("MailBucket");
    let rules = bucket["LifecycleConfiguration"]["Rules"].as_array().unwrap();
    assert!(rules.iter().all(|rule| rule["Status"] == "Enabled"));
    let expires = rules.iter().filter(|rule| !rule["ExpirationInDays"].is_null());
    let expires: Vec<_> = expires.map(|rule| (rule["Prefix"].as_str(), rule["ExpirationInDays"].as_u64())).collect();
    // What is announced lives as long as a message that it goes along with.
    assert_eq!(expires, [(Some("mail/"), Some(30))]);
    let cut_off = rules.iter().filter(|rule| rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 1);
    assert_eq!(cut_off.map(|rule| &rule["Prefix"]).collect::<Vec<_>>(), [&Value::Null]);
    let [encryption] = &bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"].as_array().unwrap()[..] else {
        panic!("one rule")
    };
    let by_default = &encryption["ServerSideEncryptionByDefault"];
    assert_eq!((&by_default["SSEAlgorithm"], &encryption["BucketKeyEnabled"]), (&json!("aws:kms"), &json!(true)));
    assert_eq!(references(&by_default["KMSMasterKeyID"]), BTreeSet::from(["Key".to_owned()]));
    let hidden = bucket["PublicAccessBlockConfiguration"].as_object().unwrap();
    assert!(hidden.len() == 4 && hidden.values().all(|value| *value == true), "{hidden:?}");
    assert_eq!(bucket["OwnershipControls"]["Rules"], json!([{"ObjectOwnership": "BucketOwnerEnforced"}]));
    // Links are followed and files are put by pages of any origin, and nothing else is.
    let [cors] = &bucket["CorsConfiguration"]["CorsRules"].as_array().unwrap()[..] else { panic!("one rule") };
    assert_eq!((&cors["AllowedOrigins"], &cors["AllowedMethods"]), (&json!(["*"]), &json!(["GET", "PUT"])));

    let all = json!([{"Fn::GetAtt": ["MailBucket", "Arn"]}, {"Fn::Sub": "${MailBucket.Arn}/*"}]);
    let [tls, links] = &statements(of("MailBucketPolicy"))[..] else { panic!("two statements") };
    check_tls_only(tls, "s3:*", &all);
    let longest = PUT_LIFETIME.max(LINK_LIFETIME).as_millis().to_string();
    let too_old = json!({"StringEquals": {"s3:authType": "REST-QUERY-STRING"}, "NumericGreaterThan": {"s3:signatureAge": longest}});
    assert_eq!((&links["Effect"], &links["Condition"]), (&json!("Deny"), &too_old));
    assert_eq!((&links["Principal"], &links["Action"], &links["Resource"]), (&json!("*"), &json!("s3:*"), &all[1]));
}

#[test]
fn queues_are_asked_over_tls_alone() {
    for name in ["Sync", "Outbox"] {
        let queues = [format!("{name}Queue"), format!("{name}DeadLetterQueue")];
        let policy = &stack(DATA)["Resources"][format!("{name}QueuePolicy")]["Properties"];
        let [tls] = &statements(policy)[..] else { panic!("one statement") };
        check_tls_only(tls, "sqs:*", &queues.each_ref().map(|queue| json!({"Fn::GetAtt": [queue, "Arn"]})).into());
        assert_eq!(policy["Queues"], Value::from_iter(queues.map(|queue| json!({"Ref": queue}))));
    }
}

fn check_tls_only(statement: &Value, actions: &str, resources: &Value) {
    assert_eq!((&statement["Effect"], &statement["Principal"]), (&json!("Deny"), &json!("*")));
    assert_eq!((&statement["Action"], &statement["Resource"]), (&json!(actions), resources));
    assert_eq!(statement["Condition"], json!({"Bool": {"aws:SecureTransport": "false"}}));
}

/// A stack's parameters where these are set.
pub struct Deployed<'a> {
    pub file: &'a str,
    pub set: &'a BTreeMap<String, String>,
}

impl Deployed<'_> {
    fn parameter(&self, name: &str) -> String {
        self.set.get(name).cloned().unwrap_or_else(|| text(&stack(self.file)["Parameters"][name]["Default"]))
    }

    /// What conditions, rules and choices come to.
    fn value(&self, value: &Value) -> Value {
        let (Some(map), Some((function, argument))) =
            (value.as_object(), value.as_object().and_then(|map| map.iter().next()))
        else {
            return value.clone();
        };
        assert_eq!(map.len(), 1, "{value}");
        let both = || (text(&self.value(&argument[0])), text(&self.value(&argument[1])));
        let members = |list: &Value| match list {
            Value::Array(list) => list.iter().map(text).collect(),
            list => text(&self.value(list)).split(',').map(str::to_owned).collect::<Vec<_>>(),
        };
        match function.as_str() {
            "Ref" => self.parameter(argument.as_str().unwrap()).into(),
            "Condition" => self.holds(&stack(self.file)["Conditions"][argument.as_str().unwrap()]).into(),
            "Fn::Equals" => (both().0 == both().1).into(),
            "Fn::Not" => (!self.holds(&argument[0])).into(),
            "Fn::And" => argument.as_array().unwrap().iter().all(|one| self.holds(one)).into(),
            "Fn::Or" => argument.as_array().unwrap().iter().any(|one| self.holds(one)).into(),
            "Fn::Join" => members(&argument[1]).concat().into(),
            "Fn::Contains" => members(&argument[0]).contains(&both().1).into(),
            "Fn::EachMemberEquals" => members(&argument[0]).iter().all(|member| *member == both().1).into(),
            other => panic!("what is {other}?"),
        }
    }

    fn holds(&self, value: &Value) -> bool {
        self.value(value).as_bool().unwrap_or_else(|| panic!("{value}"))
    }

    /// What an `If` chooses, or the value itself.
    pub fn chosen<'a>(&self, value: &'a Value) -> &'a Value {
        let Value::Array(parts) = &value["Fn::If"] else { return value };
        let condition = &stack(self.file)["Conditions"][parts[0].as_str().unwrap()];
        if self.holds(condition) { &parts[1] } else { &parts[2] }
    }

    /// The resources that are made.
    pub fn resources(&self) -> impl Iterator<Item = (&'static String, &'static Value)> {
        resources(self.file).filter(|(_, resource)| match &resource["Condition"] {
            Value::String(name) => self.holds(&stack(self.file)["Conditions"][name]),
            _ => true,
        })
    }

    /// What its rules have against these parameters.
    fn refusals(&self) -> Vec<String> {
        let rules = stack(self.file)["Rules"].as_object().unwrap().values();
        let applies = |rule: &&Value| rule["RuleCondition"].is_null() || self.holds(&rule["RuleCondition"]);
        let assertions = rules.filter(applies).flat_map(|rule| rule["Assertions"].as_array().unwrap());
        assertions.filter(|one| !self.holds(&one["Assert"])).map(|one| text(&one["AssertDescription"])).collect()
    }
}

/// As CloudFormation compares values: as texts.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn parameters(set: &[(&str, &str)]) -> BTreeMap<String, String> {
    set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn rules_refuse_what_would_not_work_and_no_stage_as_it_is_configured() {
    for (file, set, refused) in [
        (DATA, &[][..], &[][..]),
        (DATA, &[("Stage", "prod")], &["prod needs somebody who gets its alarms (AlarmEmail)"]),
        (DATA, &[("DatabaseInsights", "true")], &["DatabaseInsights needs a DatabaseMinCapacity of 2 or more"]),
        (
            DATA,
            &[("DatabaseInsights", "true"), ("DatabaseMinCapacity", "1.5")],
            &["DatabaseInsights needs a DatabaseMinCapacity of 2 or more"],
        ),
        (DATA, &[("DatabaseInsights", "true"), ("DatabaseMinCapacity", "2")], &[]),
        (DATA, &[("DatabaseMinCapacity", "0.5")], &[]),
        (FUNCTIONS, &[], &[]),
        (FUNCTIONS, &[("Stage", "prod")], &["prod needs the frontend's own CorsOrigins"]),
        (FUNCTIONS, &[("JwtAlgorithm", "ES256")], &["this JwtAlgorithm needs JwtPublicKey or JwtJwksUrl"]),
        (FUNCTIONS, &[("JwtAlgorithm", "EdDSA"), ("JwtPublicKey", "x")], &[]),
        (
            FUNCTIONS,
            &[("JwtAlgorithm", "RS256"), ("JwtPublicKey", "x"), ("JwtJwksUrl", "y")],
            &["JwtPublicKey and JwtJwksUrl exclude each other"],
        ),
        (FUNCTIONS, &[("JwtJwksUrl", "y")], &["JwtPublicKey and JwtJwksUrl need another JwtAlgorithm"]),
        (FUNCTIONS, &[("JwtIds", "any")], &["JwtIds=any needs JwtIssuer"]),
        (FUNCTIONS, &[("JwtIds", "any"), ("JwtIssuer", "x")], &[]),
    ] {
        let set = parameters(set);
        assert_eq!(Deployed { file, set: &set }.refusals(), refused, "{file}: {set:?}");
    }
    // All that stands for what exists already is needed with the first of it.
    let set = parameters(&[("VpcId", "vpc-12345678")]);
    assert_eq!(Deployed { file: DATA, set: &set }.refusals().len(), 13);
    for stage in ["dev", "staging", "prod"] {
        for (file, section) in [(DATA, format!("{stage}-data")), (FUNCTIONS, stage.to_owned())] {
            let set = overrides(&format!("{section}.deploy.parameters"));
            assert_eq!(Deployed { file, set: &set }.refusals(), Vec::<String>::new(), "{stage}");
        }
    }
}

#[test]
fn each_zone_goes_out_by_the_gateway_that_the_parameter_says() {
    for (gateways, made, by) in [
        ("none", &[][..], &[][..]),
        ("one", &["NatGatewayA"], &[("MailRouteTableA", "NatGatewayA"), ("MailRouteTableB", "NatGatewayA")]),
        (
            "each",
            &["NatGatewayA", "NatGatewayB"],
            &[("MailRouteTableA", "NatGatewayA"), ("MailRouteTableB", "NatGatewayB")],
        ),
    ] {
        let set = parameters(&[("NatGateways", gateways)]);
        let deployed = Deployed { file: DATA, set: &set };
        let of_kind = |kind: &'static str| deployed.resources().filter(move |(_, resource)| resource["Type"] == kind);
        assert_eq!(of_kind("AWS::EC2::NatGateway").map(|(id, _)| id.as_str()).collect::<Vec<_>>(), made);
        let routes = of_kind("AWS::EC2::Route").map(|(_, route)| &route["Properties"]);
        let routes = routes.filter(|route| !route["NatGatewayId"].is_null());
        let routes = routes.map(|route| {
            let gateway = deployed.chosen(&route["NatGatewayId"]);
            (text(&route["RouteTableId"]["Ref"]), text(&gateway["Ref"]))
        });
        let by = by.iter().map(|(table, gateway)| ((*table).to_owned(), (*gateway).to_owned()));
        assert_eq!(routes.collect::<BTreeSet<_>>(), by.collect(), "{gateways}");
        // The gateways themselves go out by the public route, each in its zone.
        assert_eq!(of_kind("AWS::EC2::InternetGateway").count(), usize::from(!made.is_empty()));
        for (id, gateway) in of_kind("AWS::EC2::NatGateway") {
            let zone = id.strip_prefix("NatGateway").unwrap();
            assert_eq!(gateway["Properties"]["SubnetId"]["Ref"], format!("PublicSubnet{zone}"));
            let choice = if zone == "A" { 0 } else { 1 };
            for subnet in [format!("PublicSubnet{zone}"), format!("MailSubnet{zone}")] {
                let zone = &stack(DATA)["Resources"][&subnet]["Properties"]["AvailabilityZone"]["Fn::If"];
                assert_eq!(zone[1], json!({"Fn::Select": [choice, {"Ref": "Zones"}]}), "{subnet}");
            }
        }
    }
}

#[test]
fn every_output_that_the_runbook_asks_for_exists() {
    let outputs: Vec<_> = [FUNCTIONS, DATA].into_iter().flat_map(|file| names(file, "Outputs")).collect();
    let distinct: BTreeSet<_> = outputs.iter().cloned().collect();
    assert_eq!(distinct.len(), outputs.len(), "the runbook asks both stacks by name: {outputs:?}");
    let page = read("docs/OPERATIONS.md");
    let asked = page.split("output ").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    let asked: BTreeSet<_> =
        asked.filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next()).map(str::to_owned).collect();
    assert!(asked.len() >= 10, "{asked:?}");
    assert_eq!(asked.difference(&distinct).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_runbook_calls_scripts_and_functions_as_they_want_it() {
    let page = read("docs/OPERATIONS.md");
    let lines = || page.lines().map(str::trim);
    assert!(lines().any(|line| line == "origin() {"), "the lines at the top make it");
    let tries: Vec<_> = page.split(".github/smoke-test ").skip(1).collect();
    assert!(tries.len() >= 2);
    for call in tries {
        // Without an origin it asks for one that no stage but dev allows.
        assert!(call.starts_with("\"$(output ApiUrl)\" \"$(origin)\""), "{call}");
    }
    let of_functions =
        ["invoke", "put-function-concurrency", "delete-function-concurrency", "get-function-concurrency"];
    let calls = lines().filter(|line| of_functions.iter().any(|call| line.contains(&format!("aws lambda {call} "))));
    let calls: Vec<_> = calls.collect();
    assert!(calls.len() >= 5, "{calls:?}");
    for call in calls {
        assert!(call.contains("--function-name "), "{call}");
    }
}

/// The functions of the template, by logical id.
fn functions() -> impl Iterator<Item = (&'static String, &'static Value)> {
    // The transform keeps the name of a function and forgets which binary it runs.
    resources(FUNCTIONS).filter(|(_, resource)| resource["Type"] == "AWS::Lambda::Function")
}

#[test]
fn there_is_room_for_45_functions() {
    for file in TEMPLATES {
        assert!(names(file, "Resources").len() <= MOST_RESOURCES, "{file}");
    }
    // An API's function, whole: itself, version, alias, permission, deployment group, role, log group.
    let one = "GetAccount";
    let each = resources(FUNCTIONS).filter(|(id, _)| id.starts_with(one)).count();
    assert_eq!(each, 7);
    let now = names(FUNCTIONS, "Resources").len();
    let then = now + (MOST_FUNCTIONS - functions().count()) * each;
    assert!(then <= MOST_RESOURCES, "{now} now, {then} with {MOST_FUNCTIONS} functions");
    // Without an upload's addresses and before CloudFormation's own additions; its limit is 1 MB.
    assert!(stack(FUNCTIONS).to_string().len() * MOST_FUNCTIONS / functions().count() < 900_000);
}

#[test]
fn no_alarm_lists_the_functions() {
    for (id, resource) in TEMPLATES.into_iter().flat_map(resources) {
        if resource["Type"] == "AWS::CloudWatch::Alarm" {
            let metrics = resource["Properties"]["Metrics"].as_array().map_or(1, Vec::len);
            assert!(metrics <= MOST_METRICS_OF_AN_ALARM, "{id}");
            let listed = functions().filter(|(function, _)| references(resource).contains(*function)).count();
            assert_eq!(listed, 0, "{id}");
        }
    }
}

/// What counts lines of the log, with its properties.
pub fn metric_filters() -> impl Iterator<Item = (&'static String, &'static Value)> {
    let filters = resources(FUNCTIONS).filter(|(_, resource)| resource["Type"] == "AWS::Logs::MetricFilter");
    filters.map(|(id, resource)| (id, &resource["Properties"]))
}

/// counted.rs looks whether they find it.
#[test]
fn what_the_filters_of_the_log_look_for_is_what_the_code_writes() {
    let files = [
        "shared/src/db/secrets.rs",
        "shared/src/account/state.rs",
        "shared/src/log.rs",
        "shared/src/work.rs",
        "shared/src/outbox.rs",
        "mailbox/src/outbox.rs",
        "mailbox/src/sync.rs",
    ];
    let source = files.map(read).concat();
    let patterns: Vec<_> = metric_filters().filter_map(|(_, filter)| filter["FilterPattern"].as_str()).collect();
    assert!(patterns.len() >= 3, "{patterns:?}");
    for word in patterns.iter().flat_map(|pattern| pattern.split('"').skip(1).step_by(2)) {
        assert!(source.contains(&format!("\"{word}\"")), "nobody writes {word}");
    }
    // What a turn answers is the line's `result`.
    let members = patterns.iter().filter_map(|pattern| pattern.split("$.result.").nth(1)?.split(' ').next());
    let answer = read("functions/sync/schedule-work/src/lib.rs");
    let states = State::ALL.map(|state| format!("accounts.{}", state.as_str()));
    let others = ["messagesLagSeconds", "lagSeconds", "failed"].map(str::to_owned);
    assert_eq!(members.map(str::to_owned).collect::<BTreeSet<_>>(), states.into_iter().chain(others).collect());
    let states = "pub accounts: Option<BTreeMap<String, i64>>";
    let lags = ["pub lag_seconds: u64", "pub messages_lag_seconds: u64"];
    for field in lags.into_iter().chain(["rename_all = \"camelCase\"", "pub failed: usize", states]) {
        assert!(answer.contains(field), "{field}");
    }
}

/// All alarms, with their properties.
pub fn alarms() -> impl Iterator<Item = (&'static String, &'static Value)> {
    let all = [FUNCTIONS, DATA].into_iter().flat_map(resources);
    all.filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm").map(|(id, it)| (id, &it["Properties"]))
}

/// What an alarm looks at: each with its namespace, its name, and its dimensions.
pub fn watched(alarm: &Value) -> Vec<&Value> {
    match alarm["Metrics"].as_array() {
        // One that only a way out has stands in a choice.
        Some(metrics) => {
            let metrics =
                metrics.iter().map(|metric| if metric["Fn::If"].is_array() { &metric["Fn::If"][1] } else { metric });
            metrics.map(|metric| &metric["MetricStat"]["Metric"]).filter(|metric| !metric.is_null()).collect()
        }
        None => vec![alarm],
    }
}

/// That nobody can be rung for, that no mail host is reached, that all connections with one are taken, and that accounts are begun
/// and not done, keeps the queues short and no message late.
#[test]
fn synchronising_and_sending_do_not_stop_without_an_alarm() {
    for (metric, log, queue) in [
        ("ScheduleLag", "ScheduleWorkLogGroup", None),
        ("OutboxLag", "ScheduleWorkLogGroup", None),
        ("NotRung", "ScheduleWorkLogGroup", None),
        ("SyncFailures", "SyncAccountLogGroup", Some("sync")),
        ("HostsBusy", "SyncAccountLogGroup", Some("sync")),
        ("SyncLag", "SyncAccountLogGroup", Some("sync")),
        ("SendFailures", "DeliverMessageLogGroup", Some("outbox")),
        ("SendHostsBusy", "DeliverMessageLogGroup", Some("outbox")),
    ] {
        let counted = |filter: &Value| filter["MetricTransformations"][0].clone();
        let filters: Vec<_> = metric_filters().filter(|(_, filter)| counted(filter)["MetricName"] == metric).collect();
        let [(_, filter)] = filters[..] else { panic!("{metric}: {filters:?}") };
        assert_eq!(filter["LogGroupName"]["Ref"], log, "{metric}");
        assert!(counted(filter)["Dimensions"].is_null(), "an alarm would have to list them: {metric}");
        let alarms: Vec<_> = alarms()
            .filter(|(_, alarm)| watched(alarm).iter().any(|watched| watched["MetricName"] == metric))
            .collect();
        let [(id, alarm)] = alarms[..] else { panic!("{metric}: {alarms:?}") };
        assert!(alarm["AlarmActions"][0]["Fn::ImportValue"].to_string().contains("AlarmTopicArn"), "{id}");
        // In a row: a host that is away, or a call that fails, is no alarm.
        assert!(alarm["DatapointsToAlarm"].as_u64().unwrap() >= 3, "{id}");
        // A share of what the worker was given.
        let queues = watched(alarm).into_iter().filter(|watched| watched["Namespace"] == "AWS/SQS");
        let queues: Vec<_> = queues.map(|watched| &watched["Dimensions"][0]["Value"]["Fn::Sub"]).collect();
        assert_eq!(
            queues,
            Vec::from_iter(queue.map(|queue| json!(format!("${{DataStack}}-{queue}"))).as_ref()),
            "{id}"
        );
    }
}

#[test]
fn the_runbook_knows_every_alarm() {
    let page = read("docs/OPERATIONS.md");
    let mut count = 0;
    for (id, alarm) in alarms() {
        let name = suffix(&alarm["AlarmName"], "${AWS::StackName}-");
        assert!(page.contains(&format!("\n### {name}\n")), "{id}: nobody says what to do");
        assert!(
            alarm["AlarmDescription"].as_str().unwrap().ends_with(&format!("docs/OPERATIONS.md, Alarms, {name}")),
            "{id}"
        );
        count += 1;
    }
    assert!(count > 20);
}

/// Services that the handlers call only for what no template here has: secrets of other databases, file systems, logs
/// that go to Firehose, tables of buckets, endpoints of VPC Lattice and of other regions.
const UNUSED_SERVICES: [&str; 9] = [
    "docdb-elastic",
    "redshift",
    "redshift-serverless",
    "elasticfilesystem",
    "s3files",
    "s3tables",
    "firehose",
    "vpc-lattice",
    "vpce",
];

/// Actions that the schemas list and no deployment here needs: policies of users and groups, boundaries, features of
/// functions and buckets that ours do not have, what is in buckets, and names that are none.
const UNUSED_ACTIONS: [&str; 28] = [
    "iam:AttachGroupPolicy",
    "iam:AttachUserPolicy",
    "iam:DetachGroupPolicy",
    "iam:DetachUserPolicy",
    "iam:PutRolePermissionsBoundary",
    "iam:DeleteRolePermissionsBoundary",
    "lambda:AssociateRuntimeAlias",
    "lambda:GetCodeSigningConfig",
    "lambda:GetLayerVersion",
    "lambda:PassCapacityProvider",
    "s3:REST.PUT.OBJECT",
    "s3:getObject",
    "s3:CreateBucketMetadataTableConfiguration",
    "s3:DeleteBucketMetadataTableConfiguration",
    "s3:DeleteObject",
    "s3:GetBucketMetadataTableConfiguration",
    "s3:PutObjectAcl",
    "s3:UpdateBucketMetadataAnnotationTableConfiguration",
    "s3:UpdateBucketMetadataInventoryTableConfiguration",
    "s3:UpdateBucketMetadataJournalTableConfiguration",
    "s3:DeleteBucketAnalyticsConfiguration",
    "s3:DeleteBucketCors",
    "s3:DeleteBucketEncryption",
    "s3:DeleteBucketLifecycle",
    "s3:DeleteBucketMetricsConfiguration",
    "s3:DeleteBucketReplication",
    "s3:PutBucketReplication",
    "s3:PutObjectLockConfiguration",
];

/// Actions that CloudFormation needs and no schema lists.
const UNLISTED_ACTIONS: [(&str, &str); 9] = [
    ("route53:AssociateVPCWithHostedZone", "the private name of an interface endpoint"),
    ("logs:GetLogDelivery", "the access log of an HTTP API"),
    ("logs:UpdateLogDelivery", "the access log of an HTTP API"),
    ("logs:DeleteLogDelivery", "the access log of an HTTP API"),
    ("logs:ListLogDeliveries", "the access log of an HTTP API"),
    ("cloudformation:CreateChangeSet", "the transform of a nested stack"),
    ("serverlessrepo:CreateCloudFormationTemplate", "the hosted rotation's own template"),
    ("serverlessrepo:GetApplication", "the hosted rotation's own template"),
    ("serverlessrepo:GetCloudFormationTemplate", "the hosted rotation's own template"),
];

/// The actions that the statements in a value allow.
fn allowed(value: &Value) -> BTreeSet<String> {
    let allow = statements(value).into_iter().filter(|statement| statement["Effect"] == "Allow");
    allow.flat_map(|statement| texts(&statement["Action"])).map(str::to_owned).collect()
}

#[test]
fn cloudformation_may_do_what_the_handlers_do_and_nothing_else() {
    let deployed = [FUNCTIONS, DATA, "rotation.yaml"];
    let kinds: BTreeSet<_> = deployed.into_iter().flat_map(resources).filter_map(|(_, r)| r["Type"].as_str()).collect();
    let needed: BTreeSet<String> = kinds
        .into_iter()
        .flat_map(|kind| texts(&EXPANDED["permissions"][kind]))
        .filter(|action| !UNUSED_SERVICES.contains(&action.split(':').next().unwrap()))
        .filter(|action| !UNUSED_ACTIONS.contains(action))
        .chain(UNLISTED_ACTIONS.map(|(action, _)| action))
        .map(str::to_owned)
        .collect();
    assert!(needed.len() > 300, "{}", needed.len());
    let role = &stack(BOOTSTRAP)["Resources"]["CloudFormationRole"]["Properties"];
    let policies = references(&role["ManagedPolicyArns"]);
    let policies = policies.iter().map(|name| &stack(BOOTSTRAP)["Resources"][name]["Properties"]["PolicyDocument"]);
    let allowed: BTreeSet<String> = policies.flat_map(allowed).collect();
    assert_eq!(needed.difference(&allowed).collect::<Vec<_>>(), Vec::<&String>::new(), "missing in bootstrap.yaml");
    assert_eq!(allowed.difference(&needed).collect::<Vec<_>>(), Vec::<&String>::new(), "too much in bootstrap.yaml");
}

#[test]
fn policies_keep_to_the_size_that_iam_takes() {
    for (id, resource) in TEMPLATES.into_iter().flat_map(resources) {
        if resource["Type"] == "AWS::IAM::ManagedPolicy" {
            let size = resource["Properties"]["PolicyDocument"].to_string().len();
            assert!(size <= MOST_OF_A_POLICY, "{id}: {size}");
        }
    }
}

/// `get-role` as IAM calls it: `GetRole`.
fn pascal_case(command: &str, separator: char) -> String {
    command.split(separator).map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

#[test]
fn the_pipeline_may_do_what_its_scripts_do() {
    let role = &stack(BOOTSTRAP)["Resources"]["PipelineRole"];
    let allowed = allowed(role);
    let scripts =
        [".github/deploy", ".github/prune-versions", ".github/workflows/deploy-stage.yml"].map(read).join("\n");
    let calls: BTreeSet<_> = scripts
        .split("aws ")
        .skip(1)
        .filter_map(|call| {
            let mut words = call.split_whitespace();
            let (service, command) = (words.next()?, words.next()?);
            let is_call = call.contains("--") && command.contains('-') && !command.starts_with('-');
            is_call.then(|| format!("{service}:{}", pascal_case(command, '-')))
        })
        .collect();
    assert!(calls.len() >= 6, "{calls:?}");
    assert_eq!(calls.difference(&allowed).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// A function as the template has it, and the sources of its package.
struct Function {
    name: String,
    role: String,
    environment: BTreeSet<String>,
    /// Whether it knows the queue of the synchronisation, and that of the outbox.
    queues: [bool; 2],
    network: Option<BTreeSet<String>>,
    policies: BTreeSet<String>,
    source: String,
}

/// What each function gets, by what the template says and its code.
fn classes() -> Vec<Function> {
    let all = crate::support::functions().into_iter();
    all.map(|function| {
        let resource = &stack(FUNCTIONS)["Resources"][&function.logical_id]["Properties"];
        let role = references(&resource["Role"]).pop_first().unwrap();
        let attached = &stack(FUNCTIONS)["Resources"][&role]["Properties"]["ManagedPolicyArns"];
        let folders = sources(&workspace_root().join("functions")).into_iter();
        let own = folders.filter(|path| path.contains(&format!("/{}/src/", function.binary)));
        Function {
            environment: resource["Environment"]["Variables"].as_object().unwrap().keys().cloned().collect(),
            queues: ["SYNC_QUEUE_URL", "OUTBOX_QUEUE_URL"].map(|name| resource["Environment"]["Variables"][name] != ""),
            network: resource["VpcConfig"].is_object().then(|| imports(&resource["VpcConfig"])),
            policies: references(attached).into_iter().chain(imports(attached)).collect(),
            source: own.map(|path| fs::read_to_string(path).unwrap()).collect(),
            name: function.binary,
            role,
        }
    })
    .collect()
}

/// What a function calls that changes something in the database.
fn writers() -> Vec<String> {
    let mut writers = Vec::new();
    for path in sources(&workspace_root().join("shared/src/db")) {
        let source = fs::read_to_string(path).unwrap();
        for method in source.split("pub async fn ").skip(1).filter(|method| !method.contains("Access::Read")) {
            let name = method.split(['(', '<']).next().unwrap();
            writers.push(format!(".{name}("));
        }
    }
    assert!(writers.contains(&".create_draft(".to_owned()) && writers.len() > 30, "{writers:?}");
    writers
}

#[test]
fn no_function_gets_what_its_class_does_not_use() {
    for function in classes() {
        let Function { name, environment, queues, network, policies, source, .. } = function;
        let has = |name: &str| environment.contains(name);
        let may = |name: &str| policies.contains(name);
        // Whoever reaches nothing outside its process has no network, no secret and no policy but that of the traces; nor
        // has who reaches the issuer, but for one secret of its own.
        let alone = source.contains("serve_public") || name == "refresh-keys";
        assert_eq!(network.is_none(), alone, "{name}");
        if alone {
            assert_eq!(policies, BTreeSet::from(["TracingPolicy".to_owned()]), "{name}");
        }
        // A secret that is named can be read, and no other.
        assert_eq!(has("SECRET_ARN"), may("ServiceSecretPolicyArn"), "{name}");
        assert_eq!(has("READER_SECRET_ARN"), may("ReaderSecretPolicyArn"), "{name}");
        // An endpoint that changes nothing in the database has the login that could not, and not the other one beside it.
        let only_reads = source.contains("shared::serve(") && !writers().iter().any(|writer| source.contains(writer));
        assert_eq!(has("READER_SECRET_ARN"), only_reads || name == "migrate", "{name}");
        assert!(!only_reads || !has("SECRET_ARN"), "{name}");
        assert_eq!(has("NETWORK_SECRET_ARN"), may("NetworkSecretPolicyArn"), "{name}");
        assert_eq!(has("NETWORK_SECRET_ARN"), source.contains("shared::serve_network("), "{name}");
        assert_eq!(has("OWNER_SECRET_ARN"), may("OwnerSecretPolicyArn"), "{name}");
        assert_eq!(has("OWNER_SECRET_ARN"), name == "migrate", "{name}");
        assert_eq!(has("SCHEDULER_SECRET_ARN"), may("SchedulerSecretPolicyArn"), "{name}");
        assert_eq!(has("MAIL_SECRET_ARN"), may("MailSecretPolicyArn") || may("MailSecretKeeperPolicyArn"), "{name}");
        assert_eq!(may("MailSecretKeeperPolicyArn"), name == "migrate", "{name}");
        assert_eq!(has("PROVIDERS_SECRET_ARN"), may("ProvidersSecretPolicyArn"), "{name}");
        let asks_providers =
            ["serve_sign_in", "serve_mail", "serve_reading", "serve_tries", "work_mail", "work_outbox"]
                .iter()
                .any(|way| source.contains(way));
        assert_eq!(has("PROVIDERS_SECRET_ARN"), asks_providers, "{name}");
        assert_eq!(may("NetworkPolicy"), network.is_some(), "{name}");
        // The schedule's login, and neither tokens' key nor private keys.
        let is_schedule = source.contains("serve_due");
        assert!(!is_schedule || has("SCHEDULER_SECRET_ARN") && !has("SECRET_ARN") && !has("MAIL_SECRET_ARN"), "{name}");
        // Who rings may send, and who works off the queue, which may ring again, may receive as well.
        let works = source.contains("work_mail");
        let rings = works || is_schedule || source.contains("serve_ringing");
        assert_eq!((rings, works), (may("RingPolicyArn"), may("WorkPolicyArn")), "{name}");
        let sends = source.contains("work_outbox");
        let rings_to_send = sends || is_schedule || source.contains("serve_sending");
        assert_eq!((rings_to_send, sends), (may("RingOutboxPolicyArn"), may("WorkOutboxPolicyArn")), "{name}");
        // Who probes sees all three, and touches none.
        let probes = source.contains("serve_readiness");
        assert_eq!(may("ProbePolicyArn"), probes, "{name}");
        assert_eq!([rings || probes, rings_to_send || probes], queues, "{name}");
        // Who knows the bucket may keep messages in it, delete them, have users put files there, or read those. Nobody may
        // do two of these, but for one who makes files of what was kept.
        let ways = ["KeepMailPolicyArn", "PurgeMailPolicyArn", "PutUploadsPolicyArn", "ReadUploadsPolicyArn"];
        let copies = name == "copy-attachments";
        let count = ways.into_iter().filter(|way| may(way)).count();
        assert_eq!(usize::from(has("MAIL_BUCKET") && !probes) + usize::from(copies), count, "{name}");
        assert_eq!(may("KeepMailPolicyArn"), source.contains("serve_reading"), "{name}");
        assert_eq!(may("ReadUploadsPolicyArn"), sends || name == "send-message", "{name}");
        assert_eq!(may("PutUploadsPolicyArn"), source.contains("serve_uploads") || copies, "{name}");
        assert_eq!(may("PurgeMailPolicyArn"), is_schedule, "{name}");
        // Only who is told which mail hosts it may reach has a way to them.
        let out = network.unwrap_or_default().contains("MailFunctionSubnetIds");
        assert_eq!(out, has("MAIL_PORTS"), "{name}");
        // The public half goes to who seals, and who opens has no use for it, but to seal anew, or tokens that a
        // provider replaces.
        let seals = name == "reseal-secrets" || asks_providers;
        assert!(!(has("SEALING_PUBLIC_KEY") && has("MAIL_SECRET_ARN")) || seals, "{name}");
    }
}

/// What a stranger's server says is read where no account is, and so nothing there leads to one: no login, no address of the
/// database, no port of it.
#[test]
fn who_reads_where_no_account_is_has_no_way_to_the_database() {
    const GROUP: &str = "NetworkSecurityGroup";
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let all = classes().into_iter();
    let network: Vec<_> = all.filter(|function| function.source.contains("shared::serve_network(")).collect();
    assert_eq!(
        network.iter().map(|function| function.name.as_str()).collect::<Vec<_>>(),
        ["find-settings", "test-settings"]
    );
    for Function { name, environment, network, policies, .. } in network {
        let telling =
            environment.into_iter().filter(|name| name.ends_with("SECRET_ARN") || name.contains("DATABASE_URL"));
        assert_eq!(telling.collect::<BTreeSet<_>>(), set(&["JWT_JWKS_SECRET_ARN", "NETWORK_SECRET_ARN"]), "{name}");
        assert_eq!(network.unwrap(), set(&["MailFunctionSubnetIds", "NetworkFunctionSecurityGroupIds"]), "{name}");
        // The name that the last one is imported by has the data stack's in it.
        let allowed = set(&["TracingPolicy", "NetworkPolicy", "DataStack", "NetworkSecretPolicyArn"]);
        assert_eq!(policies, allowed, "{name}");
    }

    let resources = &stack(DATA)["Resources"];
    let secret = resources["NetworkSecret"]["Properties"]["SecretString"]["Fn::Sub"].as_str().unwrap();
    let secret: BTreeMap<String, String> = serde_json::from_str(secret).unwrap();
    assert_eq!(secret.into_keys().collect::<BTreeSet<_>>(), set(&["JWT_SECRET_KEY", "REDIS_URL"]));
    for id in ["DatabaseProxy", "DatabaseProxyRole"] {
        assert!(!references(&resources[id]).contains("NetworkSecret"), "{id}: it is no login");
    }

    let group = &stack(DATA)["Outputs"]["NetworkFunctionSecurityGroupIds"]["Value"];
    assert_eq!(references(group), set(&[GROUP, "NetworkSecurityGroupIds"]));
    let lets_out = |group: &str| -> BTreeSet<u64> {
        let rules = resources[group]["Properties"]["SecurityGroupEgress"].as_array().unwrap().iter();
        let ports = rules.map(|rule| {
            assert_eq!((&rule["IpProtocol"], &rule["FromPort"]), (&json!("tcp"), &rule["ToPort"]), "{group}");
            rule["FromPort"].as_u64().unwrap()
        });
        ports.collect()
    };
    let (with, without) = (lets_out("MailSecurityGroup"), lets_out(GROUP));
    assert_eq!(with.symmetric_difference(&without).collect::<Vec<_>>(), [&5432], "else they do the same");
    let lets_in = |group: &str| -> BTreeSet<(String, u64)> {
        let rules =
            self::resources(DATA).filter(|(_, rule)| rule["Properties"]["SourceSecurityGroupId"]["Ref"] == group);
        rules
            .map(|(_, rule)| &rule["Properties"])
            .map(|rule| (text(&rule["GroupId"]["Ref"]), rule["FromPort"].as_u64().unwrap()))
            .collect()
    };
    let (with, without) = (lets_in("MailSecurityGroup"), lets_in(GROUP));
    let difference: Vec<_> = with.symmetric_difference(&without).collect();
    assert_eq!(difference, [&("ProxySecurityGroup".to_owned(), 5432)]);
}

/// Who can write the set of keys can sign in as anybody, so only one function can; who knows callers can read it.
#[test]
fn the_issuers_keys_are_written_by_one_function_and_read_by_those_that_know_callers() {
    let resources = &stack(FUNCTIONS)["Resources"];
    let known = [
        "shared::serve(",
        "shared::serve_ringing(",
        "shared::serve_sending(",
        "shared::serve_sealing(",
        "shared::serve_network(",
        "shared::serve_mail(",
        "shared::serve_providers(",
        "shared::serve_sign_in(",
        "shared::serve_reading(",
        "shared::serve_tries(",
        "shared::serve_uploads(",
    ];
    let readers: BTreeSet<_> = classes()
        .into_iter()
        .filter(|function| known.iter().any(|way| function.source.contains(way)))
        .map(|function| function.role)
        .collect();
    assert!(readers.len() >= 8, "{readers:?}");
    let policy = &resources["KeySetPolicy"]["Properties"];
    assert_eq!(references(&policy["Roles"]), readers);
    assert_eq!(allowed(policy), BTreeSet::from(["kms:Decrypt", "secretsmanager:GetSecretValue"].map(str::to_owned)));
    let of_secret = |value: &Value| references(value).contains("KeySetSecret");
    let writers = resources.as_object().unwrap().iter().filter(|(_, resource)| {
        statements(resource)
            .into_iter()
            .any(|s| of_secret(&s["Resource"]) && texts(&s["Action"]).contains(&"secretsmanager:PutSecretValue"))
    });
    assert_eq!(writers.map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["RefreshKeysRole"]);
}

/// What the mail functions may reach: the ports that mail/ allows unless it is told others, and 443 for settings from an
/// address and for AWS.
fn ports_out() -> BTreeSet<u64> {
    let source = read("mail/src/connect.rs");
    let list = source.split("const MAIL_PORTS:").nth(1).unwrap().split("= [").nth(1).unwrap();
    let ports = list.split(']').next().unwrap().split(", ").map(|port| port.parse().unwrap());
    ports.chain([443]).collect()
}

#[test]
fn only_mail_functions_have_a_way_out_and_only_to_mail_hosts() {
    const ANYWHERE: &str = "0.0.0.0/0";
    let of_kind = |kind: &'static str| resources(DATA).filter(move |(_, resource)| resource["Type"] == kind);
    // A route out exists for the mail functions' subnets, and for those of the gateways.
    for (id, route) in of_kind("AWS::EC2::Route") {
        let table = route["Properties"]["RouteTableId"]["Ref"].as_str().unwrap();
        assert!(["MailRouteTableA", "MailRouteTableB", "PublicRouteTable"].contains(&table), "{id}: {table}");
    }
    for (id, link) in of_kind("AWS::EC2::SubnetRouteTableAssociation") {
        let part = |name: &str| link["Properties"][name]["Ref"].as_str().unwrap();
        let (subnet, table) = (part("SubnetId"), part("RouteTableId"));
        let expected = table.replace("RouteTable", "Subnet");
        assert!(subnet.starts_with(&expected), "{id}: {subnet} has the routes of {table}");
    }
    // A function's group lets out to anywhere what the network's rules let out as well; those of the functions that stay
    // inside have no route but to S3.
    let mut groups = of_kind("AWS::EC2::SecurityGroup").map(|(id, group)| {
        let rules = group["Properties"]["SecurityGroupEgress"].as_array().unwrap().iter();
        let out = rules.filter(|rule| rule["CidrIp"] == ANYWHERE).map(|rule| {
            assert_eq!(rule["FromPort"], rule["ToPort"], "{id}");
            rule["FromPort"].as_u64().unwrap()
        });
        (id.as_str(), out.collect::<BTreeSet<_>>())
    });
    let out: BTreeMap<_, _> = groups.by_ref().filter(|(_, ports)| !ports.is_empty()).collect();
    let ports = ports_out();
    assert!(ports.len() > 5, "{ports:?}");
    let inside = ["FunctionSecurityGroup", "MigrateSecurityGroup"].map(|group| (group, [443].into()));
    let expected: BTreeMap<_, _> = inside
        .into_iter()
        .chain(["MailSecurityGroup", "NetworkSecurityGroup"].map(|group| (group, ports.clone())))
        .collect();
    assert_eq!(out, expected);

    let rules = of_kind("AWS::EC2::NetworkAclEntry").map(|(_, entry)| &entry["Properties"]);
    let rules: Vec<_> = rules.filter(|rule| rule["Egress"] == true).collect();
    let number = |rule: &Value| rule["RuleNumber"].as_u64().unwrap();
    let (open, other): (Vec<&Value>, Vec<&Value>) = rules.into_iter().partition(|rule| rule["CidrBlock"] == ANYWHERE);
    let opened = open.iter().map(|rule| rule["PortRange"]["From"].as_u64().unwrap());
    assert_eq!(opened.collect::<BTreeSet<_>>(), ports);
    let (denied, inside): (Vec<&Value>, Vec<&Value>) = other.into_iter().partition(|rule| rule["RuleAction"] == "deny");
    let ranges: BTreeSet<_> = denied.iter().filter_map(|rule| rule["CidrBlock"].as_str()).collect();
    let private = ["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"];
    assert_eq!(ranges, BTreeSet::from(private));
    // The first rule that fits decides: what is inside, then what is private, then the rest.
    let last = |rules: &[&Value]| rules.iter().map(|rule| number(rule)).max().unwrap();
    let first = |rules: &[&Value]| rules.iter().map(|rule| number(rule)).min().unwrap();
    assert!(last(&inside) < first(&denied) && last(&denied) < first(&open));
}

#[test]
fn each_queue_and_its_worker_go_together() {
    for (queue, binary, function, concurrency) in [
        ("Sync", "sync-account", "SyncAccountFunction", "SyncConcurrency"),
        ("Outbox", "deliver-message", "DeliverMessageFunction", "SendConcurrency"),
    ] {
        check_queue(queue, binary, function, concurrency);
    }
}

fn check_queue(name: &str, binary: &str, function: &str, concurrency: &str) {
    let of = |file: &str, id: &str| &stack(file)["Resources"][id]["Properties"];
    let id = format!("{name}Queue");
    let (queue, dead) = (of(DATA, &id), of(DATA, &format!("{name}DeadLetterQueue")));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}"));
    assert_eq!(number(&queue["RedrivePolicy"]["maxReceiveCount"]), u64::from(shared::work::ATTEMPTS));
    let worker = crate::support::functions().into_iter().find(|function| function.binary == binary).unwrap();
    let [event] = &worker.queues[..] else { panic!("one queue") };
    assert_eq!((event.queue.as_str(), event.reports_failures), (id.as_str(), true));
    assert_eq!(event.batch_size, shared::work::JOBS_AT_ONCE, "none waits for another of its batch");
    // A message that was received and throttled comes again before its fifth time would be up.
    assert_eq!(number(&queue["VisibilityTimeout"]), 6 * worker.timeout.as_secs());
    // The age of the oldest message counts those in hand: two workers that are killed one after the other are no backlog.
    let alarm = of(DATA, &format!("{name}QueueAgeAlarm"));
    assert_eq!(alarm["MetricName"], "ApproximateAgeOfOldestMessage");
    let twice = 2 * number(&queue["VisibilityTimeout"]) + worker.timeout.as_secs();
    assert!(number(&alarm["Threshold"]) >= twice, "{alarm}");
    assert!(number(&alarm["Threshold"]) < number(&queue["MessageRetentionPeriod"]), "{alarm}");
    assert!(number(&dead["MessageRetentionPeriod"]) > 24 * number(&queue["MessageRetentionPeriod"]));
    for queue in [queue, dead] {
        assert_eq!(queue["SqsManagedSseEnabled"], true);
    }
    let source = resources(FUNCTIONS)
        .find(|(id, it)| it["Type"] == "AWS::Lambda::EventSourceMapping" && id.starts_with(function))
        .unwrap()
        .1;
    let most = &source["Properties"]["ScalingConfig"]["MaximumConcurrency"];
    let reserved = &of(FUNCTIONS, function)["ReservedConcurrentExecutions"]["Fn::If"][1];
    assert_eq!((&most["Ref"], &reserved["Ref"]), (&concurrency.into(), &concurrency.into()));
}

/// What moto's CloudFormation cannot make: for these the other tests here have to do, and an account.
const UNKNOWN_TO_MOTO: [&str; 31] = [
    "AWS::ApiGatewayV2::Api",
    "AWS::ApiGatewayV2::Stage",
    "AWS::CloudFormation::CustomResource",
    "AWS::CloudFormation::Stack",
    "AWS::CloudWatch::Alarm",
    "AWS::CodeDeploy::Application",
    "AWS::CodeDeploy::DeploymentGroup",
    "AWS::EC2::NetworkAcl",
    "AWS::EC2::NetworkAclEntry",
    "AWS::EC2::SubnetNetworkAclAssociation",
    "AWS::ElastiCache::ServerlessCache",
    "AWS::ElastiCache::User",
    "AWS::ElastiCache::UserGroup",
    "AWS::IAM::OIDCProvider",
    "AWS::IAM::ServiceLinkedRole",
    "AWS::Lambda::Alias",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Permission",
    "AWS::Logs::MetricFilter",
    "AWS::RDS::DBCluster",
    "AWS::RDS::DBClusterParameterGroup",
    "AWS::RDS::DBInstance",
    "AWS::RDS::DBProxy",
    "AWS::RDS::DBProxyTargetGroup",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SQS::QueuePolicy",
    "AWS::Scheduler::Schedule",
    "AWS::SecretsManager::Secret",
    "AWS::SecretsManager::SecretTargetAttachment",
];

#[test]
fn moto_makes_the_stacks_of_every_stage_one_after_the_other() {
    let stacks = [FUNCTIONS, DATA, BOOTSTRAP].map(|file| (file.to_owned(), stack(file).clone()));
    let mut child = Command::new(python_tool("python3", MOTO).unwrap())
        .arg(workspace_root().join("tests/it/make_stacks.py"))
        .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(Value::from_iter(stacks).to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(texts(&made["unknown"]), UNKNOWN_TO_MOTO);
    let made = made["stacks"].as_object().unwrap();
    assert_eq!(made.len(), 12, "bootstrap, data and functions of three stages, and over infrastructure that exists");
    for (stack, status) in made {
        assert_eq!(status, "CREATE_COMPLETE", "{stack}");
    }
}

/// The parameters that a section of samconfig.toml sets.
pub fn overrides(section: &str) -> BTreeMap<String, String> {
    let file = read("samconfig.toml");
    let text = file.split(&format!("\n[{section}]\n")).nth(1).unwrap_or_else(|| panic!("no {section}"));
    let text = text.split("\n[").next().unwrap().split("parameter_overrides = [").nth(1).unwrap();
    let text = text.split(']').next().unwrap();
    let pairs = text.split('"').filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn every_stage_is_configured_for_the_templates_there_are() {
    let built = overrides("default.build.parameters");
    for stage in ["dev", "staging", "prod"] {
        let (data, functions) =
            (overrides(&format!("{stage}-data.deploy.parameters")), overrides(&format!("{stage}.deploy.parameters")));
        for (file, set) in [(DATA, &data), (FUNCTIONS, &functions)] {
            let known = names(file, "Parameters");
            for name in set.keys() {
                assert!(known.contains(name), "{file} has no parameter {name}, which {stage} sets");
            }
            assert_eq!(set["Stage"], stage);
        }
        assert_eq!(functions["DataStack"], format!("email-service-{stage}-data"));
        assert_eq!(functions["Architecture"], built["Architecture"], "{stage} would run what was built for another");
        let file = read("samconfig.toml");
        for line in [
            format!("role_arn = \"arn:aws:iam::000000000000:role/email-service-{stage}-cloudformation\""),
            format!("s3_bucket = \"email-service-{stage}-artifacts-000000000000\""),
        ] {
            assert_eq!(file.matches(&line).count(), 2, "{line}");
        }
    }
}

/// Runs a script in a folder that has these files, with `bin` before the other programs; returns whether it went well
/// and what it said.
fn run(script: &str, argument: &str, files: &[(&str, &str)]) -> (bool, String) {
    let root = std::env::temp_dir().join(format!("email-service-{}", uuid::Uuid::new_v4()));
    for (path, text) in files.iter().copied().chain([(script, read(script).as_str())]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap());
    let output = Command::new(root.join(script)).arg(argument).env("PATH", path).output().unwrap();
    fs::remove_dir_all(&root).unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn a_build_names_every_function_and_its_architecture() {
    let says = |name: &str| format!("#!/bin/sh\necho \"{name} $*\"\n");
    for (architecture, flag) in [("x86_64", ""), ("arm64", "--arm64 ")] {
        let configuration =
            read("samconfig.toml").replace("Architecture=x86_64", &format!("Architecture={architecture}"));
        let (cargo, sam) = (says("cargo"), says("sam"));
        let files = [
            ("samconfig.toml", configuration.as_str()),
            ("template.yaml", &read(FUNCTIONS)),
            ("bin/cargo", &cargo),
            ("bin/sam", &sam),
        ];
        let (built, said) = run(".github/build", "", &files);
        let (cargo, sam) = said.trim_end().split_once('\n').unwrap();
        assert_eq!((built, sam), (true, "sam build"), "{said}");
        let named = cargo.strip_prefix(&format!("cargo lambda build --release {flag}--bin ")).unwrap();
        let functions = local::template::routes(&workspace_root().join(FUNCTIONS)).unwrap();
        let all: BTreeSet<_> = functions.iter().map(|function| function.binary.as_str()).collect();
        assert_eq!(named.split(" --bin ").collect::<BTreeSet<_>>(), all);
    }
}

/// An account, as `aws` describes it to `.github/deploy`.
#[derive(Clone, Copy)]
struct Account {
    /// Of concurrent executions.
    quota: u64,
    /// Of both stacks; empty where there are none.
    status: &'static str,
    /// A role that is not there.
    lacks: &'static str,
}

const ACCOUNT: Account = Account { quota: 1000, status: "CREATE_COMPLETE", lacks: "" };

/// `.github/deploy` with programs in place of `aws` and `sam`.
fn deploy(stage: &str, configuration: &str, account: Account) -> (bool, String) {
    deploy_built("", "echo \"sam $*\"", stage, configuration, account)
}

/// The same of this template, with this script in place of `sam`.
fn deploy_built(built: &str, sam: &str, stage: &str, configuration: &str, account: Account) -> (bool, String) {
    let sam = format!("#!/bin/sh\n{sam}\n");
    let Account { quota, status, lacks } = account;
    let status = if status.is_empty() { "exit 254".to_owned() } else { format!("echo {status}") };
    let aws = format!(
        "#!/bin/sh\ncase $2 in get-role) [ \"$4\" != \"{lacks}\" ] || exit 254; echo role;; \
         get-account-settings) echo {quota};; describe-stacks) {status};; esac\n"
    );
    let files = [
        ("samconfig.toml", configuration),
        ("template.yaml", &read(FUNCTIONS)),
        (".aws-sam/build/template.yaml", built),
        ("bin/aws", &aws),
        ("bin/sam", &sam),
    ];
    run(".github/deploy", stage, &files)
}

/// samconfig.toml without a stand-in.
fn filled_in() -> String {
    read("samconfig.toml").replace("000000000000", "123456789012").replace("example.com", "example.org")
}

#[test]
fn a_deployment_asks_first_what_would_fail_late() {
    let (deployed, said) = deploy("prod", &read("samconfig.toml"), ACCOUNT);
    assert!(!deployed && said.contains("000000000000") && said.contains("app.example.com"), "{said}");
    assert!(!said.contains("staging"), "another stage is no concern of this one: {said}");

    let filled = filled_in();
    let (deployed, said) = deploy("dev", &filled, Account { quota: 10, ..ACCOUNT });
    assert!(deployed, "a stage that reserves nothing needs no quota: {said}");
    assert_eq!(said, "sam deploy --config-env dev-data\nsam deploy --config-env dev\n");

    for lacks in ["AWSServiceRoleForRDS", "AWSServiceRoleForElastiCache"] {
        let (deployed, said) = deploy("prod", &filled, Account { lacks, ..ACCOUNT });
        assert!(!deployed && said.contains(&format!("no role {lacks}")) && !said.contains("sam deploy"), "{said}");
    }

    let (deployed, said) = deploy("nowhere", &filled, ACCOUNT);
    assert!(!deployed && said.contains("no stage nowhere"), "{said}");
}

/// Else a parameter's new value, the public sealing key among them, reaches no function that runs.
#[test]
fn a_deployment_by_hand_makes_new_versions_each_time() {
    let (filled, built) = (filled_in(), "Description: migrate, unreleased\nDescription: health, unreleased\n");
    let deployed = |built: &str| {
        let sam = "case $3 in dev) cat .aws-sam/build/template.yaml ;; esac";
        let (deployed, said) = deploy_built(built, sam, "dev", &filled, ACCOUNT);
        assert!(deployed, "{said}");
        said
    };
    let first = deployed(built);
    let words: Vec<_> = first.lines().filter_map(|line| line.strip_prefix("Description: ")).collect();
    let [migrate, health] = words[..] else { panic!("{first}") };
    assert!(migrate.starts_with("migrate, by-hand-") && health.starts_with("health, by-hand-"), "{first}");
    // Whether or not something was built in between.
    let others = [deployed(built), deployed(&first)];
    assert!(others.iter().all(|other| !other.contains("unreleased") && *other != first), "{first}{others:?}");
    assert_eq!(others[1].matches("by-hand-").count(), 2, "in the place of the last one: {others:?}");
    let by_the_pipeline = "Description: migrate, 0123456789ab-17-1\n";
    assert_eq!(deployed(by_the_pipeline), by_the_pipeline);
    // There is a word to replace in each function that is published.
    let template = read(FUNCTIONS);
    let published = template.matches("AutoPublishAliasAllProperties: true").count();
    assert!(published > 30);
    assert_eq!(template.matches(", unreleased\n").count(), published);
}

#[test]
fn a_deployment_goes_on_from_where_the_last_one_stopped_or_says_what_to_do_first() {
    let filled = filled_in();
    for status in ["", "REVIEW_IN_PROGRESS", "CREATE_FAILED", "UPDATE_FAILED"] {
        let (deployed, said) = deploy("prod", &filled, Account { status, ..ACCOUNT });
        let expected =
            "sam deploy --config-env prod-data --disable-rollback\nsam deploy --config-env prod --disable-rollback\n";
        assert!(deployed && said == expected, "a first try keeps what it made: {status}: {said}");
    }
    for status in ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"] {
        let (deployed, said) = deploy("prod", &filled, Account { status, ..ACCOUNT });
        assert!(deployed && said == "sam deploy --config-env prod-data\nsam deploy --config-env prod\n", "{said}");
    }
    for (status, first) in [
        ("ROLLBACK_COMPLETE", "must be deleted first"),
        ("ROLLBACK_FAILED", "must be deleted first"),
        ("DELETE_FAILED", "must be deleted first"),
        ("UPDATE_ROLLBACK_FAILED", "let its rollback go on first"),
        ("ROLLBACK_IN_PROGRESS", "wait until it is not"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "wait until it is not"),
    ] {
        let (deployed, said) = deploy("prod", &filled, Account { status, ..ACCOUNT });
        assert!(!deployed && !said.contains("sam deploy"), "{said}");
        for stack in ["email-service-prod-data", "email-service-prod"] {
            assert!(
                said.lines().any(|line| line.contains(&format!("{stack} is {status}")) && line.contains(first)),
                "{said}"
            );
        }
        assert!(read("docs/OPERATIONS.md").contains(status) || first.starts_with("wait"), "nobody says how: {status}");
    }
}

/// What the functions reserve of the account's concurrent executions, where parameters have these values.
fn reserved(values: &BTreeMap<String, String>) -> u64 {
    let of = |value: &Value| match value["Ref"].as_str() {
        None => value.as_u64().unwrap(),
        Some(name) => match values.get(name) {
            Some(value) => value.parse().unwrap(),
            None => stack(FUNCTIONS)["Parameters"][name]["Default"].as_u64().unwrap(),
        },
    };
    functions().map(|(_, function)| of(&function["Properties"]["ReservedConcurrentExecutions"]["Fn::If"][1])).sum()
}

#[test]
fn a_deployment_needs_the_quota_of_all_that_is_reserved_and_no_more() {
    let filled = filled_in();
    let more =
        filled.replace("\"DataStack=email-service-prod-data\",", "\"SyncConcurrency=250\", 'SendConcurrency=\"40\"',");
    let of_staging = filled.replace("\"DataStack=email-service-staging-data\",", "\"SyncConcurrency=250\",");
    let commented = filled.replace("\"DataStack=email-service-prod-data\",", "# \"SyncConcurrency=250\",");
    let own = [("SyncConcurrency", "250"), ("SendConcurrency", "40")];
    let own: BTreeMap<_, _> = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let defaults = BTreeMap::new();
    assert_eq!(reserved(&own), reserved(&defaults) - 10 - 10 + 250 + 40);
    for (configuration, values) in
        [(&filled, &defaults), (&more, &own), (&of_staging, &defaults), (&commented, &defaults)]
    {
        // Lambda keeps 100 that nobody can reserve.
        let enough = reserved(values) + 100;
        let (deployed, said) = deploy("prod", configuration, Account { quota: enough - 1, ..ACCOUNT });
        let expected = format!("\"Concurrent executions\" is {}, and must be {enough}", enough - 1);
        assert!(!deployed && said.contains(&expected) && !said.contains("sam deploy"), "{said}");
        let (deployed, said) = deploy("prod", configuration, Account { quota: enough, ..ACCOUNT });
        assert!(deployed, "{said}");
    }
}

#[test]
fn the_newest_versions_of_a_function_and_those_with_an_alias_are_kept() {
    let aws = r#"#!/bin/sh
case $2 in
    list-stack-resources) echo "one two" ;;
    list-aliases) printf '3\t2\n' ;;
    list-versions-by-function) [ "$4" = one ] && printf '1\t2\t3\t4\t10\t9\t8\t7\t11\n' || echo 1 ;;
    delete-function) echo "$@" ;;
esac
"#;
    let (pruned, said) = run(".github/prune-versions", "stack", &[("bin/aws", aws)]);
    assert!(pruned, "{said}");
    let deleted: Vec<_> = said.lines().filter(|line| line.starts_with("deleted")).collect();
    assert_eq!(deleted, ["deleted one:1", "deleted one:4"]);
}
