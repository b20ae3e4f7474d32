//! What web pages can do with the emulator of SQS and S3, which believes everybody.

use local::emulator::Emulator;
use reqwest::Method;

const PAGE: &str = "http://localhost:3000";

/// What a browser says of a request.
type Said = &'static [(&'static str, &'static str)];

async fn status(emulator: &Emulator, method: Method, path: &str, said: Said) -> u16 {
    let request = reqwest::Client::new().request(method, format!("{}{path}", emulator.url()));
    let request = said.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body("x").send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn no_page_can_use_the_emulator_but_the_one_that_was_admitted() {
    let emulator = tokio::task::spawn_blocking(Emulator::start).await.unwrap().unwrap();
    let bucket = emulator.make_bucket().await.unwrap();
    bucket.put("mail/secret", b"x".to_vec()).await.unwrap();
    let (object, upload) = (format!("/{}/mail/secret", bucket.name()), format!("/{}/uploads/new", bucket.name()));
    let link = format!("{object}?X-Amz-Signature=x");
    let strangers: [Said; 5] = [
        &[("host", "rebound.example.com")],
        &[("host", "localhost.example.com:5000")],
        &[("origin", "https://evil.example")],
        &[("origin", "http://localhost:5173")],
        // A picture, or a form that asks.
        &[("sec-fetch-site", "cross-site")],
    ];
    for said in strangers {
        let ring = "/?Action=ListQueues";
        for (method, path) in [(Method::GET, "/"), (Method::PUT, &object), (Method::PUT, &upload), (Method::GET, ring)]
        {
            assert_eq!(status(&emulator, method.clone(), path, said).await, 403, "{said:?} {method} {path}");
        }
        assert_eq!(status(&emulator, Method::OPTIONS, &upload, said).await, 403, "{said:?}");
    }
    // Until it is admitted, ours is a stranger, too.
    let ours: Said = &[("origin", PAGE), ("sec-fetch-site", "cross-site")];
    assert_eq!(status(&emulator, Method::PUT, &upload, ours).await, 403);
    assert_eq!(bucket.keys().await.unwrap(), ["mail/secret"]);
    emulator.admit(PAGE).unwrap();
    assert_eq!(status(&emulator, Method::OPTIONS, &upload, ours).await, 200);
    assert_eq!(status(&emulator, Method::PUT, &upload, ours).await, 200);
    assert_eq!(bucket.keys().await.unwrap(), ["mail/secret", "uploads/new"]);

    // Where the API led a page.
    let led: Said = &[("origin", "null"), ("sec-fetch-site", "cross-site")];
    assert_eq!(status(&emulator, Method::GET, &link, led).await, 200);
    let list = format!("/{}?X-Amz-Signature=x", bucket.name());
    for path in ["/?X-Amz-Signature=x", &list, &object, "/moto-api/data.json?X-Amz-Signature=x"] {
        assert_eq!(status(&emulator, Method::GET, path, led).await, 403, "{path}");
    }
    assert_eq!(status(&emulator, Method::PUT, &link, led).await, 403);
    // Programs say nothing of pages.
    assert_eq!(status(&emulator, Method::GET, "/", &[]).await, 200);
    assert_eq!(status(&emulator, Method::GET, &link, &[]).await, 200);
}
