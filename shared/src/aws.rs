//! How the functions talk to AWS: as Lambda tells them by the environment, and in no other way.
//!
//! What the SDK would try beside that (profiles, single sign-on, a machine's or a container's metadata) is never there on
//! Lambda. Without it each function's zip is a tenth smaller, and nobody who answers as a metadata service can lend us his
//! credentials.

use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::SharedCredentialsProvider;

use crate::variables::Variables;

/// As long as the SDK itself waits for a connection.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_millis(3_100);

/// For a service, named as `AWS_ENDPOINT_URL_…` has it.
pub(crate) fn config(service: &str, timeouts: TimeoutConfig, retries: RetryConfig) -> SdkConfig {
    let vars = Variables::of_process();
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(vars.get("AWS_REGION").map(Region::new))
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
        .retry_config(retries)
        .timeout_config(timeouts.into_builder().connect_timeout(CONNECT_LIMIT).build());
    config.set_endpoint_url(endpoint(&vars, service));
    config.build()
}

/// Another place than AWS's own, where one is named: for this service, or for all.
pub(crate) fn endpoint(vars: &Variables, service: &str) -> Option<String> {
    vars.get(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| vars.get("AWS_ENDPOINT_URL"))
}

/// What the names of AWS's hosts end with in a region.
pub(crate) fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}
