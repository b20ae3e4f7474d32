//! How the functions talk to AWS: as Lambda tells them by the environment, and in no other way.
//!
//! What the SDK would try beside that (profiles, single sign-on, a machine's or a container's metadata) is never there on
//! Lambda. Without it each function's zip is a tenth smaller, and nobody who answers as a metadata service can lend us his
//! credentials.
//!
//! Who calls the SDK does so in a [`BoxFuture`](futures_util::future::BoxFuture) that is made in this crate. What is awaited
//! as it is becomes code of the crate that awaits it: each function would have the SDK twice, a fortieth of its zip, and
//! its futures in the memory of each request.

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::{SharedHttpClient, SharedHttpConnector, http_client_fn};

use crate::connections::Connections;
use crate::variables::Variables;

/// For a service, named as `AWS_ENDPOINT_URL_…` has it.
pub(crate) fn config(service: &str, retries: RetryConfig) -> SdkConfig {
    let vars = Variables::of_process();
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(vars.get("AWS_REGION").map(Region::new))
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
        .retry_config(retries)
        // Connections have limits of their own.
        .timeout_config(TimeoutConfig::disabled())
        .http_client(client());
    config.set_endpoint_url(endpoint(&vars, service));
    config.build()
}

/// How the SDK's requests are sent.
pub(crate) fn client() -> SharedHttpClient {
    let connector = SharedHttpConnector::new(Connections::default());
    http_client_fn(move |_, _| connector.clone())
}

/// Another place than AWS's own, where one is named: for this service, or for all.
pub(crate) fn endpoint(vars: &Variables, service: &str) -> Option<String> {
    vars.get(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| vars.get("AWS_ENDPOINT_URL"))
}

/// What the names of AWS's hosts end with in a region.
pub(crate) fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}
