//! The dashboards: each graph is of a metric that there is, none lists the functions, and what operators are promised is
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use shared::account::state::State;
use shared::metrics::{JobMetrics, Measured, Metrics, Visits};

use crate::templates::{DATA, Deployed, FUNCTIONS, alarms, metric_filters, overrides, resources, stack, watched};
use crate::tidy::read;

const OURS: &str = "EmailService";
/// Metrics of AWS's own services, by what they are told apart by.
const OF_AWS: [(&str, &[&str]); 6] = [
    ("AWS/ApiGateway", &["ApiId"]),
    ("AWS/Lambda", &["FunctionName"]),
    ("AWS/SQS", &["QueueName"]),
    ("AWS/RDS", &["DBClusterIdentifier"]),
    ("AWS/RDS", &["ProxyName"]),
    ("AWS/ElastiCache", &["clusterId"]),
];

/// A metric's name and what it is told apart by.
type Known = BTreeSet<(String, BTreeSet<String>)>;

fn words(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned())
}

/// What the functions' lines declare, in requests and jobs that fail in some way, and what is counted in their logs.
pub fn ours() -> Known {
    let time = Duration::from_millis(1);
    let request = Metrics::from(Measured {
        function: "f",
        visits: Visits::Nobody,
        status: 500,
        error_kind: Some("Internal server error"),
        cold_start: true,
        fallback: false,
        duration: time,
        database_time: time,
        redis_time: time,
    });
    let job = JobMetrics::new("f", Some("Panic"), time, time);
    let lines = [serde_json::to_value(request).unwrap(), serde_json::to_value(job).unwrap()];
    let mut known = Known::new();
    for directive in lines.iter().flat_map(|line| line["_aws"]["CloudWatchMetrics"].as_array().unwrap()) {
        assert_eq!(directive["Namespace"], OURS);
        for dimensions in directive["Dimensions"].as_array().unwrap() {
            let dimensions: BTreeSet<_> = words(dimensions).collect();
            let names = directive["Metrics"].as_array().unwrap().iter();
            known.extend(names.map(|metric| (metric["Name"].as_str().unwrap().to_owned(), dimensions.clone())));
        }
    }
    for counted in metric_filters().flat_map(|(_, filter)| filter["MetricTransformations"].as_array().unwrap()) {
        assert_eq!(counted["MetricNamespace"], OURS);
        let dimensions = counted["Dimensions"].as_array().into_iter().flatten();
        let dimensions = dimensions.map(|dimension| dimension["Key"].as_str().unwrap().to_owned()).collect();
        known.insert((counted["MetricName"].as_str().unwrap().to_owned(), dimensions));
    }
    known
}

fn body(file: &str) -> &'static str {
    stack(file)["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"].as_str().unwrap()
}

fn widgets(file: &str) -> Vec<Value> {
    let body: Value = serde_json::from_str(body(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    body["widgets"].as_array().unwrap().clone()
}

/// A namespace, a metric's name, and what it is told apart by.
type Shown = (String, String, BTreeSet<String>);

/// What a search looks for: `{NAMESPACE,DIMENSION,…} MetricName="NAME" …`, with a statistic and a period.
fn searched(expression: &str, period: &Value) -> Shown {
    let search = expression.strip_prefix("SUM(").and_then(|sum| sum.strip_suffix(')')).unwrap_or(expression);
    let inner = search
        .strip_prefix("SEARCH('")
        .and_then(|search| search.strip_suffix(')'))
        .unwrap_or_else(|| panic!("{search}"));
    let (query, rest) = inner.split_once('\'').unwrap();
    let (schema, terms) =
        query.strip_prefix('{').and_then(|query| query.split_once("} ")).unwrap_or_else(|| panic!("{query}"));
    let mut schema = schema.split(',').map(str::to_owned);
    let namespace = schema.next().unwrap();
    let dimensions: BTreeSet<_> = schema.collect();
    let mut name = None;
    for term in terms.split(' ') {
        match term.split_once('=') {
            Some(("MetricName", value)) => name = Some(value.trim_matches('"').to_owned()),
            Some((dimension, _)) => assert!(dimensions.contains(dimension), "{expression}"),
            // Of all that is called so, this stack's.
            None => assert_eq!(term, "${AWS::StackName}", "{expression}"),
        }
    }
    let rest: Vec<_> = rest.split(", ").collect();
    let ["", statistic, seconds] = rest[..] else { panic!("{expression}") };
    assert!(["'Sum'", "'Maximum'", "'p99'"].contains(&statistic), "{expression}");
    assert_eq!(seconds, period.to_string(), "a search has the period of its graph: {expression}");
    (namespace, name.unwrap_or_else(|| panic!("{expression}")), dimensions)
}

/// What a graph shows, with what a line leaves to the one before it.
fn shown(widget: &Value) -> Vec<Shown> {
    let properties = &widget["properties"];
    let mut before: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for line in properties["metrics"].as_array().unwrap() {
        if let Some(expression) = line[0]["expression"].as_str() {
            all.push(searched(expression, &properties["period"]));
            continue;
        }
        let parts: Vec<_> = line.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        if parts[0] != "..." {
            let said = parts
                .iter()
                .enumerate()
                .map(|(at, part)| if *part == "." { before[at].clone() } else { (*part).to_owned() });
            before = said.collect();
        }
        let dimensions = before[2..].iter().step_by(2).cloned().collect();
        all.push((before[0].clone(), before[1].clone(), dimensions));
    }
    all
}

#[test]
fn each_graph_is_of_metrics_that_there_are() {
    let known = ours();
    let mut count = 0;
    for widget in [FUNCTIONS, DATA].into_iter().flat_map(widgets) {
        assert_eq!((&widget["type"], &widget["properties"]["region"]), (&json!("metric"), &json!("${AWS::Region}")));
        for (namespace, name, dimensions) in shown(&widget) {
            count += 1;
            let title = &widget["properties"]["title"];
            if namespace == OURS {
                assert!(
                    known.contains(&(name.clone(), dimensions.clone())),
                    "{title}: nobody writes {name} by {dimensions:?}"
                );
            } else {
                let told_apart = OF_AWS.iter().filter(|(service, _)| *service == namespace);
                let mut told_apart =
                    told_apart.map(|(_, by)| by.iter().map(|by| (*by).to_owned()).collect::<BTreeSet<_>>());
                assert!(told_apart.any(|by| by == dimensions), "{title}: {namespace} has {name} by something else");
            }
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn no_dashboard_lists_the_functions() {
    let functions = crate::support::functions();
    for file in [FUNCTIONS, DATA] {
        for function in &functions {
            let names = [
                format!("${{{}", function.logical_id),
                format!("-{}\"", function.binary),
                format!("\"{}\"", function.binary),
            ];
            assert!(names.iter().all(|name| !body(file).contains(name)), "{file}: {}", function.binary);
        }
    }
}

#[test]
fn what_operators_are_promised_is_on_the_dashboard() {
    let all: BTreeSet<Shown> = widgets(FUNCTIONS).iter().flat_map(shown).collect();
    let is_shown = |namespace: &str, name: &str, by: &[&str]| {
        let by = by.iter().map(|by| (*by).to_owned()).collect();
        assert!(all.contains(&(namespace.to_owned(), name.to_owned(), by)), "{name}");
    };
    is_shown(OURS, "ScheduleLag", &[]);
    is_shown(OURS, "SyncLag", &[]);
    is_shown(OURS, "OutboxLag", &[]);
    is_shown(OURS, "OutboxUncertain", &[]);
    is_shown(OURS, "HostErrors", &["HostService", "Code"]);
    for state in State::ALL {
        let state = state.as_str();
        is_shown(OURS, &format!("Accounts{}{}", state[..1].to_uppercase(), &state[1..]), &[]);
    }
    for queue in ["sync", "outbox"] {
        let oldest = "[\"AWS/SQS\", \"ApproximateAgeOfOldestMessage\", \"QueueName\", \"${DataStack}-";
        assert!(body(FUNCTIONS).contains(&format!("{oldest}{queue}\"")), "{queue}");
    }
}

/// The dimensions of what an alarm looks at.
fn dimensions(watched: &Value) -> BTreeMap<&str, &Value> {
    let all = watched["Dimensions"].as_array().into_iter().flatten();
    all.map(|one| (one["Name"].as_str().unwrap(), &one["Value"])).collect()
}

#[test]
fn each_alarm_is_of_metrics_that_there_are() {
    let known = ours();
    let mut count = 0;
    for (id, alarm) in alarms() {
        for watched in watched(alarm).into_iter().filter(|watched| watched["Namespace"] == OURS) {
            let by = dimensions(watched).into_keys().map(str::to_owned).collect();
            let name = watched["MetricName"].as_str().unwrap().to_owned();
            assert!(known.contains(&(name, by)), "{id}: nobody writes {watched}");
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}

/// Else a slow provider would keep every release back.
#[test]
fn what_takes_a_deployment_back_does_not_hang_on_mail_hosts() {
    let groups = resources(FUNCTIONS).filter(|(_, resource)| resource["Type"] == "AWS::CodeDeploy::DeploymentGroup");
    let named = groups.flat_map(|(_, group)| group["Properties"]["AlarmConfiguration"]["Alarms"].as_array().unwrap());
    let named = named.map(|alarm| &alarm["Name"]).fold(Vec::new(), |mut all, name| {
        if !all.contains(&name) {
            all.push(name);
        }
        all
    });
    assert_eq!(named.len(), 3, "{named:?}");
    for name in named {
        let (id, alarm) = alarms().find(|(_, alarm)| alarm["AlarmName"] == *name).unwrap();
        for watched in watched(alarm) {
            let by = dimensions(watched);
            let service = by.get("Service").is_some_and(|service| **service == "email_service");
            let is_ours = match (watched["Namespace"].as_str().unwrap(), watched["MetricName"].as_str().unwrap()) {
                // A function that waits for a host ends by itself, and answers.
                ("AWS/Lambda", "Errors") => by.is_empty(),
                (OURS, "Requests") => service && by.len() == 1,
                (OURS, "Duration") => service && *by["Visits"] == json!(Visits::Nobody),
                (OURS, "Errors") => {
                    let kind = by["ErrorKind"].as_str().unwrap();
                    assert!(kinds_of_errors().contains(kind), "{id}: {kind}");
                    service && kind != "Mail server error"
                }
                _ => false,
            };
            assert!(is_ours, "{id}: {watched}");
        }
        // With too few requests it would stay as it is, and so would every deployment.
        assert!(alarm["EvaluateLowSampleCountPercentile"].is_null(), "{id}");
        let metrics = alarm["Metrics"].as_array().into_iter().flatten();
        let periods = metrics.map(|metric| &metric["MetricStat"]["Period"]).chain([&alarm["Period"]]);
        let longest = periods.filter_map(Value::as_u64).max().unwrap();
        // A canary lasts five minutes.
        assert!(longest * alarm["EvaluationPeriods"].as_u64().unwrap() <= 180, "{id}");
    }
}

#[test]
fn no_graph_covers_another() {
    for file in [FUNCTIONS, DATA] {
        let places: Vec<_> = widgets(file)
            .iter()
            .map(|widget| ["x", "y", "width", "height"].map(|name| widget[name].as_u64().unwrap()))
            .collect();
        for (index, [x, y, width, height]) in places.iter().enumerate() {
            assert!(x + width <= 24, "{file}: {index}");
            for [other_x, other_y, other_width, other_height] in &places[..index] {
                let apart = x + width <= *other_x
                    || other_x + other_width <= *x
                    || y + height <= *other_y
                    || other_y + other_height <= *y;
                assert!(apart, "{file}: {index}");
            }
        }
    }
}

/// How many metrics the alarms of a stage look at, each of which has its price.
fn metrics_of_alarms(stage: &str) -> usize {
    let count = |file: &str, section: String| {
        let set = overrides(&format!("{section}.deploy.parameters"));
        let deployed = Deployed { file, set: &set };
        let alarms = deployed.resources().filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm");
        let looked_at = alarms.map(|(_, alarm)| match &alarm["Properties"]["Metrics"] {
            Value::Array(metrics) => {
                metrics.iter().filter(|metric| deployed.chosen(metric)["MetricStat"].is_object()).count()
            }
            _ => 1,
        });
        looked_at.sum::<usize>()
    };
    count(DATA, format!("{stage}-data")) + count(FUNCTIONS, stage.to_owned())
}

#[test]
fn the_page_of_costs_counts_the_metrics_that_there_are() {
    let page = read("docs/OPERATIONS.md");
    let [dev, staging, prod] = ["dev", "staging", "prod"].map(metrics_of_alarms);
    let alarms = format!("| alarms | {dev}, {staging}, {prod} metrics × $0.10 |");
    assert!(page.contains(&alarms), "{alarms}");

    // Without an issuer's set of keys, as all stages are.
    let set = overrides("prod.deploy.parameters");
    let made: BTreeSet<_> = Deployed { file: FUNCTIONS, set: &set }.resources().map(|(id, _)| id.as_str()).collect();
    let functions = crate::support::functions();
    let functions: Vec<_> = functions.iter().filter(|function| made.contains(function.logical_id.as_str())).collect();
    let routes = functions.iter().filter(|function| !function.routes.is_empty()).count();
    let jobs = functions.iter().filter(|function| function.routes.is_empty() && function.has_events()).count();
    let requests = ours().into_iter().filter(|(_, by)| *by == BTreeSet::from(["Service".to_owned()])).count();
    let visits = [Visits::Nobody, Visits::Hosts].len();
    let kinds = kinds_of_errors().len();
    let filters: Vec<_> = metric_filters().filter(|(id, _)| made.contains(id.as_str())).collect();
    let is_bounded = |filter: &Value| filter["MetricTransformations"][0]["Dimensions"].is_array();
    let counted = filters.iter().filter(|(_, filter)| !is_bounded(filter)).count();
    let of_hosts = crate::counted::SERVICES.len() * mail::Code::ALL.len();
    let sum = format!(
        "({requests} + {visits} by visits + 3 × {routes} functions with a route + 4 × {jobs} with jobs + {kinds} kinds of errors + {counted} counted in logs + {of_hosts} of mail hosts) × $0.30"
    );
    let metrics = (requests + visits + 3 * routes + 4 * jobs + kinds + counted + of_hosts) as f64 * 0.3;
    let lines = [
        format!("| metrics | {sum} | {metrics:.0} |"),
        format!("| metrics and alarms | {sum} + {prod} × $0.10 | {0:.0} | {0:.0} |", metrics + prod as f64 * 0.1),
    ];
    for line in lines {
        assert!(page.contains(&line), "{line}");
    }
}

/// As metrics are told apart by: of requests and of jobs.
fn kinds_of_errors() -> BTreeSet<String> {
    let of = |file: &str, function: &str, before: &str| {
        let source = read(file);
        let body = source
            .split(&format!("pub fn {function}(&self)"))
            .nth(1)
            .unwrap()
            .split("\n    }\n")
            .next()
            .unwrap()
            .to_owned();
        let named = body.split(before).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        named.collect::<BTreeSet<_>>()
    };
    let (requests, jobs) = (of("shared/src/error.rs", "status", ", \""), of("shared/src/work.rs", "kind", "=> \""));
    assert!(requests.contains("Not found") && jobs.contains("Panic"), "{requests:?} {jobs:?}");
    requests.into_iter().chain(jobs).collect()
}

/// The sums of the tables of costs are those of their rows.
#[test]
fn the_costs_add_up() {
    let page = read("docs/OPERATIONS.md");
    let costs = page.split("\n## Cost\n").nth(1).unwrap();
    let mut columns: Vec<f64> = Vec::new();
    let mut sums: Vec<Vec<f64>> = Vec::new();
    for line in costs.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().replace("**", "")).collect();
        if !line.starts_with('|') || cells.len() < 3 {
            columns.clear();
            continue;
        }
        let numbers: Vec<f64> = cells[2..].iter().map(|cell| cell.parse().unwrap_or(0.0)).collect();
        if cells[0] == "sum" {
            // Each row is rounded by itself.
            let near = columns.iter().zip(&numbers).all(|(rows, sum)| (rows - sum).abs() <= 1.5);
            assert!(near && columns.len() == numbers.len(), "{line}: {columns:?}");
            sums.push(numbers);
        } else if columns.is_empty() {
            columns = numbers;
        } else {
            columns.iter_mut().zip(numbers).for_each(|(column, number)| *column += number);
        }
    }
    // What is said of them elsewhere.
    let [at_rest, mailboxes, _] = &sums[..] else { panic!("{sums:?}") };
    let [dev, staging, prod] = at_rest[..] else { panic!("{at_rest:?}") };
    let said = format!("{dev} dollars for dev, {staging} for staging and {prod} for prod");
    assert!(page.contains(&said), "{said}");
    assert!(page.contains(&format!("in prod with 1,000 mailboxes {} more", mailboxes[0])));
    assert!(
        read("README.md").contains(&format!("${dev} a month at rest where developers try it, ${prod} in production"))
    );
}
