//! The least that a Lambda function in Rust can be.

use lambda_http::lambda_runtime::{Error, LambdaEvent, run_concurrent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let answer = |_: LambdaEvent<Value>| async { Ok::<_, Error>(json!({"statusCode": 200, "body": "hello world"})) };
    run_concurrent(service_fn(answer)).await
}
