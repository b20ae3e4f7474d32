//! Reads the functions and their routes from the SAM template, so that the local gateway serves what is deployed.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

/// What Lambda gives a function that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// Whether it opens sealed secrets: it has the variable `MAIL_SECRET_ARN`.
    pub opens_secrets: bool,
}

/// A route of the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method in upper case, or `ANY`.
    pub method: String,
    /// The path with `{names}` for parameters, or `$default`.
    pub path: String,
}

/// The functions of a template in alphabetical order of their logical ids.
///
/// Conditions are not evaluated and intrinsic functions not resolved: a value that is one counts as not set.
pub fn routes(template: &Path) -> Result<Vec<Function>> {
    let yaml = fs::read_to_string(template).with_context(|| format!("cannot read {}", template.display()))?;
    parse(&yaml).with_context(|| format!("{} is no valid template", template.display()))
}

fn parse(yaml: &str) -> Result<Vec<Function>> {
    let template: Value = serde_saphyr::from_str(yaml)?;
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

fn function(id: &str, resource: &Value, globals: &Value) -> Result<Function> {
    let binary = resource["Metadata"]["BuildProperties"]["Binary"].as_str();
    let properties = &resource["Properties"];
    let timeout = [properties, globals].iter().find_map(|from| from["Timeout"].as_u64());
    let events = properties["Events"].as_object().into_iter().flat_map(|events| events.values());
    Ok(Function {
        logical_id: id.to_owned(),
        binary: binary.with_context(|| format!("{id} has no Metadata.BuildProperties.Binary"))?.to_owned(),
        timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        routes: events.filter(|event| event["Type"] == "HttpApi").map(route).collect(),
        opens_secrets: properties["Environment"]["Variables"].get("MAIL_SECRET_ARN").is_some(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn who_opens_secrets_has_their_variable() -> Result<()> {
        let yaml = TEMPLATE
            .replace("Timeout: 7", "Timeout: 7\n      Environment: { Variables: { MAIL_SECRET_ARN: !Ref Mail } }");
        let opens: Vec<_> = parse(&yaml)?.iter().map(|function| function.opens_secrets).collect();
        assert_eq!(opens, [true, false]);
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
