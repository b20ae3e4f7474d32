//! Reads the functions, what leads to them and the queues from the SAM template, so that what is deployed is what runs
//! here.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const QUEUE: &str = "AWS::SQS::Queue";
/// What Lambda gives a function that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// What SQS gives a queue, and Lambda an event source, that set none.
const DEFAULT_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_BATCH_SIZE: usize = 10;

/// An `AWS::Serverless::Function` that is built from this workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The resource's name in the template.
    pub logical_id: String,
    /// The binary, which is also the package and the folder in `functions/`.
    pub binary: String,
    /// How long one invocation may take.
    pub timeout: Duration,
    /// The HTTP API routes that lead to it.
    pub routes: Vec<Route>,
    /// The queues that it works off.
    pub queues: Vec<QueueEvent>,
    /// How long it is from one turn to the next, for each of its schedules.
    pub schedules: Vec<Duration>,
    /// Whether it opens sealed secrets: it has the variable `MAIL_SECRET_ARN`.
    pub opens_secrets: bool,
    /// Whether it asks the database who is due: it has the variable `SCHEDULER_SECRET_ARN`.
    pub asks_who_is_due: bool,
    /// Whether it only answers what is there: it has the variable `READER_SECRET_ARN`.
    pub only_reads: bool,
    /// Whether it knows callers and reaches no database: it has the variable `NETWORK_SECRET_ARN`.
    pub reaches_no_database: bool,
    /// Whether it asks mail providers for tokens: it has the variable `PROVIDERS_SECRET_ARN`.
    pub asks_providers: bool,
}

impl Function {
    /// Whether anything but a direct invocation leads to it.
    pub fn has_events(&self) -> bool {
        !(self.routes.is_empty() && self.queues.is_empty() && self.schedules.is_empty())
    }
}

/// A route of the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method in upper case, or `ANY`.
    pub method: String,
    /// The path with `{names}` for parameters, or `$default`.
    pub path: String,
}

/// A queue that Lambda polls for a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEvent {
    /// The queue's logical id.
    pub queue: String,
    /// The most messages of one invocation.
    pub batch_size: usize,
    /// How long a batch waits to get full.
    pub window: Duration,
    /// Whether the function says which messages of a batch failed (`ReportBatchItemFailures`).
    pub reports_failures: bool,
    /// The most invocations at once, where there is a limit.
    pub concurrency: Option<usize>,
}

/// An `AWS::SQS::Queue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The resource's name in the template.
    pub logical_id: String,
    /// How long a message that was received is hidden from others, in whole seconds.
    pub visibility_timeout: Duration,
    /// Where messages go that were received too often.
    pub redrive: Option<Redrive>,
    /// The functions' variables that hold its URL.
    pub variables: Vec<String>,
}

/// What becomes of a message that nobody can work off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// The logical id of the queue for dead letters.
    pub to: String,
    /// How often a message is received before.
    pub after: u64,
}

/// The functions of a template in alphabetical order of their logical ids. What it imports is looked up in the `data.yaml`
/// beside it.
///
/// Conditions are not evaluated and other intrinsic functions not resolved: a value that is one counts as not set.
pub fn routes(template: &Path) -> Result<Vec<Function>> {
    functions(&whole(template)?).with_context(|| format!("{} is no valid template", template.display()))
}

/// The queues of a template, and of the `data.yaml` beside it, in alphabetical order of their logical ids; otherwise as
/// [`routes`].
pub fn queues(template: &Path) -> Result<Vec<Queue>> {
    queues_of(&whole(template)?).with_context(|| format!("{} is no valid template", template.display()))
}

fn whole(template: &Path) -> Result<Value> {
    let read = |path: &Path| {
        let yaml = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_saphyr::from_str(&yaml).with_context(|| format!("{} is no YAML", path.display()))
    };
    Ok(join(read(template)?, &read(&template.with_file_name("data.yaml"))?))
}

/// A template with the queues of the data's in it, and with what stands for an export of that in the place of the imports.
fn join(mut template: Value, data: &Value) -> Value {
    let exports: BTreeMap<&str, &Value> = data["Outputs"]
        .as_object()
        .into_iter()
        .flat_map(|outputs| outputs.values())
        .filter_map(|output| {
            Some((output["Export"]["Name"].as_str()?.strip_prefix("${AWS::StackName}-")?, &output["Value"]))
        })
        .collect();
    resolve(&mut template, &exports);
    if let (Some(own), Some(others)) = (template["Resources"].as_object_mut(), data["Resources"].as_object()) {
        let queues = others.iter().filter(|(_, resource)| resource["Type"] == QUEUE);
        own.extend(queues.map(|(id, queue)| (id.clone(), queue.clone())));
    }
    template
}

/// The tag of an import reads as if it were not there, and leaves the name.
fn resolve(value: &mut Value, exports: &BTreeMap<&str, &Value>) {
    let name = value["Fn::Sub"].as_str().and_then(|name| name.strip_prefix("${DataStack}-"));
    if let Some(exported) = name.and_then(|name| exports.get(name)) {
        *value = (*exported).clone();
        return;
    }
    match value {
        Value::Object(members) => members.values_mut().for_each(|value| resolve(value, exports)),
        Value::Array(values) => values.iter_mut().for_each(|value| resolve(value, exports)),
        _ => {}
    }
}

fn functions(template: &Value) -> Result<Vec<Function>> {
    let globals = &template["Globals"]["Function"];
    let resources = template["Resources"].as_object().context("it has no Resources")?;
    resources
        .iter()
        .filter(|(_, resource)| {
            resource["Type"] == "AWS::Serverless::Function" && resource["Metadata"]["BuildMethod"] == "rust-cargolambda"
        })
        .map(|(id, resource)| function(id, resource, globals))
        .collect()
}

fn queues_of(template: &Value) -> Result<Vec<Queue>> {
    let resources = template["Resources"].as_object().context("it has no Resources")?;
    let environments = resources.values().chain([&template["Globals"]["Function"]]);
    let variables: Vec<(&String, &Value)> = environments
        .flat_map(|of| [&of["Properties"]["Environment"]["Variables"], &of["Environment"]["Variables"]])
        .filter_map(Value::as_object)
        .flatten()
        .collect();
    resources
        .iter()
        .filter(|(_, resource)| resource["Type"] == QUEUE)
        .map(|(id, resource)| {
            let properties = &resource["Properties"];
            // `!Ref` of a queue is its URL.
            let mut names: Vec<String> =
                variables.iter().filter(|(_, value)| *value == id).map(|(name, _)| (*name).clone()).collect();
            names.sort();
            names.dedup();
            Ok(Queue {
                logical_id: id.clone(),
                visibility_timeout: properties["VisibilityTimeout"]
                    .as_u64()
                    .map_or(DEFAULT_VISIBILITY_TIMEOUT, Duration::from_secs),
                redrive: properties.get("RedrivePolicy").map(redrive).transpose().with_context(|| id.clone())?,
                variables: names,
            })
        })
        .collect()
}

fn redrive(policy: &Value) -> Result<Redrive> {
    Ok(Redrive {
        to: of_arn(&policy["deadLetterTargetArn"]).context("deadLetterTargetArn names no queue of the template")?,
        after: policy["maxReceiveCount"].as_u64().context("maxReceiveCount is no number")?,
    })
}

/// The resource of `!GetAtt Resource.Arn`, whose tag reads as if it were not there.
fn of_arn(value: &Value) -> Option<String> {
    value.as_str()?.strip_suffix(".Arn").map(str::to_owned)
}

fn function(id: &str, resource: &Value, globals: &Value) -> Result<Function> {
    let binary = resource["Metadata"]["BuildProperties"]["Binary"].as_str();
    let properties = &resource["Properties"];
    let timeout = [properties, globals].iter().find_map(|from| from["Timeout"].as_u64());
    let events: Vec<&Value> = properties["Events"].as_object().into_iter().flat_map(|events| events.values()).collect();
    let of = |kinds: &'static [&str]| {
        events.iter().copied().filter(move |event| event["Type"].as_str().is_some_and(|kind| kinds.contains(&kind)))
    };
    let has = |variable: &str| properties["Environment"]["Variables"].get(variable).is_some();
    Ok(Function {
        logical_id: id.to_owned(),
        binary: binary.with_context(|| format!("{id} has no Metadata.BuildProperties.Binary"))?.to_owned(),
        timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        routes: of(&["HttpApi"]).map(route).collect(),
        queues: of(&["SQS"]).map(queue_event).collect::<Result<_>>().with_context(|| id.to_owned())?,
        schedules: of(&["Schedule", "ScheduleV2"])
            .filter_map(|event| schedule(&event["Properties"]).transpose())
            .collect::<Result<_>>()
            .with_context(|| id.to_owned())?,
        opens_secrets: has("MAIL_SECRET_ARN"),
        // The migration knows it, too, and logs in as nobody of these.
        asks_who_is_due: has("SCHEDULER_SECRET_ARN") && !has("OWNER_SECRET_ARN"),
        only_reads: has("READER_SECRET_ARN") && !has("OWNER_SECRET_ARN"),
        reaches_no_database: has("NETWORK_SECRET_ARN"),
        asks_providers: has("PROVIDERS_SECRET_ARN"),
    })
}

fn route(event: &Value) -> Route {
    const DEFAULT: &str = "$default";
    let method = event["Properties"]["Method"].as_str();
    let path = event["Properties"]["Path"].as_str();
    match (method, path) {
        (None, None) | (Some(DEFAULT), _) | (_, Some(DEFAULT)) | (_, None) => {
            Route { method: "ANY".to_owned(), path: DEFAULT.to_owned() }
        }
        (None | Some("*"), Some(path)) => Route { method: "ANY".to_owned(), path: path.to_owned() },
        (Some(method), Some(path)) => Route { method: method.to_ascii_uppercase(), path: path.to_owned() },
    }
}

fn queue_event(event: &Value) -> Result<QueueEvent> {
    let properties = &event["Properties"];
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let reports = properties["FunctionResponseTypes"].as_array();
    Ok(QueueEvent {
        queue: of_arn(&properties["Queue"]).context("an SQS event names no queue of the template")?,
        batch_size: number(&properties["BatchSize"]).unwrap_or(DEFAULT_BATCH_SIZE).max(1),
        window: Duration::from_secs(properties["MaximumBatchingWindowInSeconds"].as_u64().unwrap_or(0)),
        reports_failures: reports.is_some_and(|kinds| kinds.iter().any(|kind| kind == "ReportBatchItemFailures")),
        concurrency: number(&properties["ScalingConfig"]["MaximumConcurrency"]),
    })
}

/// The period of a schedule; none of one that is switched off.
fn schedule(properties: &Value) -> Result<Option<Duration>> {
    if properties["State"] == "DISABLED" || properties["Enabled"] == false {
        return Ok(None);
    }
    let expression = [&properties["Schedule"], &properties["ScheduleExpression"]].into_iter().find_map(Value::as_str);
    let expression = expression.context("a schedule has no expression")?;
    let rate = expression.strip_prefix("rate(").and_then(|rest| rest.strip_suffix(')'));
    let Some((count, unit)) = rate.and_then(|rate| rate.split_once(' ')) else {
        bail!("{expression}: only schedules such as rate(1 minute) run here");
    };
    let seconds = match unit.trim_end_matches('s') {
        "minute" => 60,
        "hour" => 60 * 60,
        "day" => 24 * 60 * 60,
        other => bail!("{expression}: {other} is no unit of a rate"),
    };
    let count: u32 = count.parse().with_context(|| expression.to_owned())?;
    ensure!(count > 0, "{expression}: a rate is at least 1");
    Ok(Some(Duration::from_secs(seconds) * count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<Vec<Function>> {
        functions(&serde_saphyr::from_str(yaml)?)
    }

    fn parse_queues(yaml: &str) -> Result<Vec<Queue>> {
        queues_of(&serde_saphyr::from_str(yaml)?)
    }

    const TEMPLATE: &str = r"
AWSTemplateFormatVersion: '2010-09-09'
Conditions: { Production: !Equals [!Ref Stage, production] }
Globals: { Function: { Timeout: 10, Environment: { Variables: { X: !Sub '${Stage}-x' } } } }
Resources:
  HttpApi: { Type: AWS::Serverless::HttpApi, Properties: { StageName: !If [Production, $default, dev] } }
  AccountsFunction:
    Type: AWS::Serverless::Function
    Condition: Production
    Metadata: { BuildMethod: rust-cargolambda, BuildProperties: { Binary: accounts } }
    Properties:
      Timeout: 7
      Role: !GetAtt Role.Arn
      Events:
        Api: { Type: HttpApi, Properties: { ApiId: !Ref HttpApi, Method: get, Path: '/accounts/{id}' } }
        All: { Type: HttpApi, Properties: { Path: /all } }
        Timer: { Type: Schedule, Properties: { Schedule: rate(1 minute) } }
  DefaultFunction:
    Type: AWS::Serverless::Function
    Metadata: { BuildMethod: rust-cargolambda, BuildProperties: { Binary: default } }
    Properties: { Timeout: !Ref Seconds, Events: { Rest: { Type: HttpApi, Properties: { ApiId: !Ref HttpApi } } } }
  OtherLanguage: { Type: AWS::Serverless::Function, Properties: { Runtime: python3.13 } }
";

    #[test]
    fn functions_have_their_own_or_the_global_timeout() -> Result<()> {
        let functions = parse(TEMPLATE)?;
        let timeouts: Vec<_> = functions.iter().map(|f| (f.binary.as_str(), f.timeout.as_secs())).collect();
        assert_eq!(timeouts, [("accounts", 7), ("default", 10)]);
        Ok(())
    }

    #[test]
    fn who_has_secrets_has_their_variables() -> Result<()> {
        for (variable, opens, asks) in [("MAIL_SECRET_ARN", true, false), ("PROVIDERS_SECRET_ARN", false, true)] {
            let environment = format!("Timeout: 7\n      Environment: {{ Variables: {{ {variable}: !Ref Secret }} }}");
            let functions = parse(&TEMPLATE.replace("Timeout: 7", &environment))?;
            let has: Vec<_> =
                functions.iter().map(|function| (function.opens_secrets, function.asks_providers)).collect();
            assert_eq!(has, [(opens, asks), (false, false)]);
        }
        Ok(())
    }

    #[test]
    fn who_has_a_login_of_its_own_has_its_variable() -> Result<()> {
        let variables = |variables: &str| {
            let own = format!("Timeout: 7\n      Environment: {{ Variables: {{ {variables} }} }}");
            parse(&TEMPLATE.replace("Timeout: 7", &own))
        };
        let has = |functions: Vec<Function>| -> Vec<_> {
            let has =
                |function: &Function| [function.asks_who_is_due, function.only_reads, function.reaches_no_database];
            functions.iter().map(has).collect()
        };
        for (name, is) in [("SCHEDULER_SECRET_ARN", [true, false, false]), ("READER_SECRET_ARN", [false, true, false])]
        {
            assert_eq!(has(variables(&format!("{name}: x"))?), [is, [false; 3]]);
            assert_eq!(has(variables(&format!("{name}: x, OWNER_SECRET_ARN: y"))?), [[false; 3]; 2]);
        }
        assert_eq!(has(variables("NETWORK_SECRET_ARN: x")?), [[false, false, true], [false; 3]]);
        Ok(())
    }

    #[test]
    fn events_become_routes() -> Result<()> {
        let functions = parse(TEMPLATE)?;
        let routes = |function: &Function| -> Vec<String> {
            let mut routes: Vec<_> = function.routes.iter().map(|r| format!("{} {}", r.method, r.path)).collect();
            routes.sort();
            routes
        };
        assert_eq!(routes(&functions[0]), ["ANY /all", "GET /accounts/{id}"]);
        assert_eq!(routes(&functions[1]), ["ANY $default"]);
        Ok(())
    }

    const QUEUES: &str = r"
Globals: { Function: { Environment: { Variables: { OTHER: SyncQueue } } } }
Resources:
  SyncQueue:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 1800
      SqsManagedSseEnabled: true
      RedrivePolicy: { deadLetterTargetArn: !GetAtt SyncDeadLetterQueue.Arn, maxReceiveCount: 5 }
  SyncDeadLetterQueue: { Type: AWS::SQS::Queue, Properties: { MessageRetentionPeriod: 1209600 } }
  WorkerFunction:
    Type: AWS::Serverless::Function
    Metadata: { BuildMethod: rust-cargolambda, BuildProperties: { Binary: worker } }
    Properties:
      Environment: { Variables: { SYNC_QUEUE_URL: !Ref SyncQueue, STAGE: !Ref Stage } }
      Events:
        Queue:
          Type: SQS
          Properties:
            Queue: !GetAtt SyncQueue.Arn
            BatchSize: 4
            MaximumBatchingWindowInSeconds: 2
            FunctionResponseTypes: [ReportBatchItemFailures]
            ScalingConfig: { MaximumConcurrency: 20 }
        Letters: { Type: SQS, Properties: { Queue: !GetAtt SyncDeadLetterQueue.Arn } }
  ClockFunction:
    Type: AWS::Serverless::Function
    Metadata: { BuildMethod: rust-cargolambda, BuildProperties: { Binary: clock } }
    Properties:
      Environment: { Variables: { SYNC_QUEUE_URL: !Ref SyncQueue } }
      Events:
        A: { Type: ScheduleV2, Properties: { ScheduleExpression: rate(1 minute), FlexibleTimeWindow: { Mode: 'OFF' } } }
        B: { Type: Schedule, Properties: { Schedule: rate(12 hours) } }
        C: { Type: ScheduleV2, Properties: { ScheduleExpression: rate(1 day), State: DISABLED } }
";

    #[test]
    fn queues_have_what_lambda_and_sqs_need_to_know() -> Result<()> {
        let [letters, sync] = &parse_queues(QUEUES)?[..] else { bail!("two queues") };
        let redrive = Redrive { to: "SyncDeadLetterQueue".to_owned(), after: 5 };
        assert_eq!((sync.visibility_timeout.as_secs(), &sync.redrive), (1800, &Some(redrive)));
        assert_eq!(sync.variables, ["OTHER", "SYNC_QUEUE_URL"]);
        assert_eq!((letters.visibility_timeout.as_secs(), &letters.redrive), (30, &None));
        let [clock, worker] = &parse(QUEUES)?[..] else { bail!("two functions") };
        let [letters, sync] = &worker.queues[..] else { bail!("two events") };
        assert_eq!((sync.queue.as_str(), sync.batch_size, sync.window.as_secs()), ("SyncQueue", 4, 2));
        assert!(sync.reports_failures && sync.concurrency == Some(20));
        assert_eq!(
            (letters.queue.as_str(), letters.batch_size, letters.window.as_secs()),
            ("SyncDeadLetterQueue", 10, 0)
        );
        assert!(!letters.reports_failures && letters.concurrency.is_none());
        assert_eq!(clock.schedules.iter().map(Duration::as_secs).collect::<Vec<_>>(), [60, 12 * 3600]);
        assert!(clock.has_events() && worker.has_events());
        Ok(())
    }

    #[test]
    fn what_the_data_stack_exports_is_as_if_it_stood_here() -> Result<()> {
        let (queues, functions) = QUEUES.split_once("  WorkerFunction:").context("no worker")?;
        let exports = "
Outputs:
  Url: { Value: !Ref SyncQueue, Export: { Name: !Sub '${AWS::StackName}-Url' } }
  Arn: { Value: !GetAtt SyncQueue.Arn, Export: { Name: !Sub '${AWS::StackName}-Arn' } }
  Dead: { Value: !GetAtt SyncDeadLetterQueue.Arn, Export: { Name: !Sub '${AWS::StackName}-Dead' } }
";
        let data: Value = serde_saphyr::from_str(&format!("{queues}{exports}"))?;
        let mut functions = format!("Resources:\n  WorkerFunction:{functions}");
        let globals = "Globals: { Function: { Environment: { Variables: { OTHER: !ImportValue { 'Fn::Sub': '${DataStack}-Url' } } } } }\n";
        functions.insert_str(0, globals);
        for (here, there) in
            [("!Ref SyncQueue", "Url"), ("!GetAtt SyncQueue.Arn", "Arn"), ("!GetAtt SyncDeadLetterQueue.Arn", "Dead")]
        {
            functions = functions.replace(here, &format!("!ImportValue {{ 'Fn::Sub': '${{DataStack}}-{there}' }}"));
        }
        let joined = join(serde_saphyr::from_str(&functions)?, &data);
        assert_eq!(super::functions(&joined)?, parse(QUEUES)?);
        assert_eq!(queues_of(&joined)?, parse_queues(QUEUES)?);
        Ok(())
    }

    #[test]
    fn what_cannot_run_here_is_named() {
        for (good, bad) in [
            ("rate(1 minute)", "cron(0 12 * * ? *)"),
            ("rate(1 minute)", "rate(1 fortnight)"),
            ("rate(1 minute)", "rate(0 minutes)"),
        ] {
            let error = format!("{:#}", parse(&QUEUES.replace(good, bad)).unwrap_err());
            assert!(error.contains("ClockFunction") && error.contains(bad), "{error}");
        }
        let foreign = QUEUES.replace("Queue: !GetAtt SyncQueue.Arn", "Queue: !Ref QueueArn");
        assert!(parse(&foreign).is_err_and(|error| error.to_string().contains("WorkerFunction")));
        let endless = QUEUES.replace(", maxReceiveCount: 5", "");
        assert!(parse_queues(&endless).is_err_and(|error| error.to_string().contains("SyncQueue")));
    }

    #[test]
    fn a_function_without_a_binary_is_named() {
        let yaml = TEMPLATE.replace("Binary: accounts", "Other: x");
        assert!(parse(&yaml).is_err_and(|error| error.to_string().contains("AccountsFunction")));
    }

    #[test]
    fn the_projects_template_has_routes() -> Result<()> {
        let functions = routes(&crate::workspace_root().join("template.yaml"))?;
        assert!(functions.iter().any(|function| function.routes.iter().any(|route| route.path == "$default")));
        Ok(())
    }
}
