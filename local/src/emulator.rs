//! SQS and S3 on this machine: moto, an emulator of AWS that others maintain, and the queues of the template and a bucket
//! in it.
//!
//! It honours visibility timeouts, counts receipts and redrives as SQS does, once it is made to do one thing at a time
//! (`emulator.py`). Unlike SQS it takes an empty message, and delivers in order and at once; unlike S3 it keeps what has
//! had its days, and does not look who asks, but that no page of a browser may that was not admitted.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
    types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName, QueueAttributeName},
};
use reqwest::{Method, header::CONTENT_LENGTH};
use rusty_s3::{
    S3Action, UrlStyle,
    actions::{CreateBucket, ListObjectsV2},
};
use serde_json::json;

use crate::{
    services::{Service, retry_on_other_ports, secret},
    template::Queue,
    tools::{MOTO, python_tool},
};

/// moto asks for keys and a region and takes any.
const KEY: &str = "local";
const REGION: &str = "us-east-1";
/// Longer than any call takes.
const SIGNED_FOR: Duration = Duration::from_secs(60);
/// SQS takes and gives no more messages in one call.
const CALL_SIZE: usize = 10;
/// What the emulator says once it listens.
const SIGN: &str = "Running on";

/// A running emulator, which ends with this value. Several users share it, each with queues and a bucket of their own.
#[derive(Debug)]
pub struct Emulator {
    service: Service,
    url: String,
}

impl Emulator {
    /// Starts it, which takes a second; at the first time it is installed.
    ///
    /// # Errors
    /// It cannot be installed or started.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into())
    }

    /// As [`Emulator::start`], at another address of this machine: one that containers reach.
    ///
    /// # Errors
    /// As [`Emulator::start`].
    pub fn start_at(address: IpAddr) -> Result<Self> {
        let python = python_tool("python", MOTO)?.display().to_string();
        retry_on_other_ports(|port| {
            let service = Service::run("moto", "KILL", SIGN, |directory| {
                let program = directory.join("emulator.py");
                fs::write(&program, include_str!("emulator.py"))?;
                let (program, host, port) = (program.display().to_string(), address.to_string(), port.to_string());
                Ok([&python, &program, "-H", &host, "-p", &port].map(String::from).to_vec())
            })?;
            Ok(Self { service, url: format!("http://{}", SocketAddr::from((address, port))) })
        })
    }

    /// Lets the page of this origin use it, and no other than that.
    ///
    /// # Errors
    /// Its directory cannot be written to.
    pub fn admit(&self, origin: &str) -> Result<()> {
        fs::write(self.service.log().with_file_name("origins"), origin).context("cannot admit a page to the emulator")
    }

    /// Ends it as a crash does: what it had is gone.
    ///
    /// # Errors
    /// It has ended before, or does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.service.end("KILL")
    }

    /// Freezes it: connections stay open and get no answer. It keeps what it has.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&mut self) -> Result<()> {
        self.service.signal("STOP")
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&mut self) -> Result<()> {
        self.service.signal("CONT")
    }

    /// Starts it again at the same address, without all that it had.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        let log = self.service.log();
        let starts = || fs::read_to_string(&log).unwrap_or_default().matches(SIGN).count();
        let before = starts();
        self.service.start(|_| starts() > before)
    }

    /// Makes the queues, under names that nobody else has.
    ///
    /// # Errors
    /// One is not taken, or leads its dead letters to none of the others.
    pub async fn make(&self, queues: &[Queue]) -> Result<Queues> {
        self.make_called(&secret()[..16], queues).await
    }

    /// Makes queues once more that went with an emulator which was killed: at the same URLs, and empty.
    ///
    /// # Errors
    /// As [`Emulator::make`].
    pub async fn make_again(&self, lost: &Queues) -> Result<()> {
        self.make_called(&lost.prefix, &lost.made_of).await.map(drop)
    }

    async fn make_called(&self, prefix: &str, queues: &[Queue]) -> Result<Queues> {
        let client = Client::new(&self.config());
        let (mut urls, mut arns) = (BTreeMap::new(), BTreeMap::new());
        for queue in queues {
            let name = format!("{prefix}-{}", queue.logical_id);
            let made = client.create_queue().queue_name(&name).send().await;
            let url = made.with_context(|| format!("cannot make the queue {name}"))?.queue_url;
            let url = url.context("a queue without URL")?;
            let arn = QueueAttributeName::QueueArn;
            let asked = client.get_queue_attributes().queue_url(&url).attribute_names(arn.clone()).send().await?;
            let arn = asked.attributes.and_then(|mut known| known.remove(&arn)).context("a queue without ARN")?;
            arns.insert(queue.logical_id.clone(), arn);
            urls.insert(queue.logical_id.clone(), url);
        }
        // A queue for dead letters may come later in the alphabet than those that lead to it.
        for queue in queues {
            let seconds = queue.visibility_timeout.as_secs().to_string();
            let mut call = client.set_queue_attributes().queue_url(&urls[&queue.logical_id]);
            call = call.attributes(QueueAttributeName::VisibilityTimeout, seconds);
            if let Some(redrive) = &queue.redrive {
                let to = arns.get(&redrive.to).with_context(|| format!("there is no queue {}", redrive.to))?;
                let policy = json!({ "deadLetterTargetArn": to, "maxReceiveCount": redrive.after });
                call = call.attributes(QueueAttributeName::RedrivePolicy, policy.to_string());
            }
            call.send().await.with_context(|| format!("cannot set up the queue {}", queue.logical_id))?;
        }
        let at_urls = |queue: &Queue| {
            let url = &urls[&queue.logical_id];
            queue.variables.iter().map(|variable| (variable.clone(), url.clone())).collect::<Vec<_>>()
        };
        let mut env: Vec<(String, String)> = queues.iter().flat_map(at_urls).collect();
        env.extend(self.env("AWS_ENDPOINT_URL_SQS"));
        Ok(Queues { client, prefix: prefix.to_owned(), made_of: queues.to_vec(), urls, arns, env })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a bucket, under a name that nobody else has.
    ///
    /// # Errors
    /// It is not taken.
    pub async fn make_bucket(&self) -> Result<Bucket> {
        let name = format!("mail-{}", &secret()[..16]);
        let mut env = vec![("MAIL_BUCKET".to_owned(), name.clone())];
        env.extend(self.env("AWS_ENDPOINT_URL_S3"));
        let place = rusty_s3::Bucket::new(self.url.parse()?, UrlStyle::Path, name, REGION)?;
        let bucket = Bucket { place, key: rusty_s3::Credentials::new(KEY, KEY), env };
        self.make_bucket_again(&bucket).await?;
        Ok(bucket)
    }

    /// Makes a bucket once more that went with an emulator which was killed: empty.
    ///
    /// # Errors
    /// As [`Emulator::make_bucket`].
    pub async fn make_bucket_again(&self, lost: &Bucket) -> Result<()> {
        lost.send(&CreateBucket::new(&lost.place, &lost.key), Vec::new()).await.context("cannot make a bucket")?;
        Ok(())
    }

    /// Its connections belong to the Tokio runtime that makes a client of it, hence one for each.
    fn config(&self) -> SdkConfig {
        let credentials = Credentials::new(KEY, KEY, None, None, "local");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url(&self.url)
            .build()
    }

    /// What the functions need to find one of its services, by the variable with that service's address.
    fn env(&self, address: &str) -> impl Iterator<Item = (String, String)> {
        let own = [
            (address, self.url.as_str()),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", KEY),
        ];
        own.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter()
    }
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    place: rusty_s3::Bucket,
    key: rusty_s3::Credentials,
    env: Vec<(String, String)>,
}

impl Bucket {
    /// What the functions need to find it: the way to the emulator, and the variable that holds its name.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.place.name()
    }

    /// The keys of what is in it, in alphabetical order.
    pub async fn keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        loop {
            let mut page = self.place.list_objects_v2(Some(&self.key));
            if let Some(last) = keys.last() {
                page.with_start_after(String::clone(last));
            }
            let answer = self.send(&page, Vec::new()).await?;
            let some = ListObjectsV2::parse_response(std::str::from_utf8(&answer)?)?.contents;
            if some.is_empty() {
                return Ok(keys);
            }
            keys.extend(some.into_iter().map(|object| object.key));
        }
    }

    /// What an object has.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.send(&self.place.get_object(Some(&self.key), key), Vec::new()).await
    }

    /// Stores an object.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        self.send(&self.place.put_object(Some(&self.key), key), bytes).await.map(drop)
    }

    /// Deletes an object, as its life cycle would.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.send(&self.place.delete_object(Some(&self.key), key), Vec::new()).await.map(drop)
    }

    async fn send<'a, A: S3Action<'a>>(&self, action: &A, body: Vec<u8>) -> Result<Vec<u8>> {
        let method = Method::from_bytes(A::METHOD.to_str().as_bytes())?;
        // Its connections belong to the Tokio runtime of this call.
        let request = reqwest::Client::new().request(method, action.sign(SIGNED_FOR));
        // The length of an empty body would be left unsaid.
        let request = request.header(CONTENT_LENGTH, body.len()).body(body);
        Ok(request.send().await?.error_for_status()?.bytes().await?.into())
    }
}

/// The queues of a template, by their logical ids.
#[derive(Debug, Clone)]
pub struct Queues {
    client: Client,
    /// What their names begin with.
    prefix: String,
    made_of: Vec<Queue>,
    urls: BTreeMap<String, String>,
    arns: BTreeMap<String, String>,
    env: Vec<(String, String)>,
}

impl Queues {
    /// What the functions need to find them: the way to the emulator, and the variables that hold a queue's URL.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// A queue's ARN.
    pub fn arn(&self, queue: &str) -> Result<&str> {
        self.arns.get(queue).map(String::as_str).with_context(|| format!("there is no queue {queue}"))
    }

    /// How many messages a queue has, those in the hands of a receiver included.
    pub async fn count(&self, queue: &str) -> Result<usize> {
        use QueueAttributeName::{ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible};
        let names = vec![ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible];
        let call = self.client.get_queue_attributes().queue_url(self.url(queue)?).set_attribute_names(Some(names));
        let counts = call.send().await?.attributes.unwrap_or_default();
        Ok(counts.values().map(|count| count.parse::<usize>()).sum::<Result<_, _>>()?)
    }

    /// Sends messages.
    pub async fn send(&self, queue: &str, bodies: &[String]) -> Result<()> {
        for body in bodies {
            self.client.send_message().queue_url(self.url(queue)?).message_body(body).send().await?;
        }
        Ok(())
    }

    /// Receives some messages, at most `count` and what one call gives; waits this long, in whole seconds, for the first.
    pub async fn receive(&self, queue: &str, count: usize, wait: Duration) -> Result<Vec<Message>> {
        let call = self
            .client
            .receive_message()
            .queue_url(self.url(queue)?)
            .max_number_of_messages(i32::try_from(count.min(CALL_SIZE))?)
            .wait_time_seconds(i32::try_from(wait.as_secs())?)
            .message_system_attribute_names(MessageSystemAttributeName::All);
        Ok(call.send().await?.messages.unwrap_or_default())
    }

    /// Deletes messages that were received.
    pub async fn delete(&self, queue: &str, messages: &[&Message]) -> Result<()> {
        for some in messages.chunks(CALL_SIZE) {
            let mut call = self.client.delete_message_batch().queue_url(self.url(queue)?);
            for (index, message) in some.iter().enumerate() {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                call = call.entries(entry.set_receipt_handle(message.receipt_handle.clone()).build()?);
            }
            call.send().await?;
        }
        Ok(())
    }

    fn url(&self, queue: &str) -> Result<&str> {
        self.urls.get(queue).map(String::as_str).with_context(|| format!("there is no queue {queue}"))
    }
}
