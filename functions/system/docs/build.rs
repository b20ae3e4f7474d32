//! Puts the page together, and compresses it and the document: once here, for at each cold start it would take longer than
//! the rest.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::{env, fs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

const DOCUMENT: &str = "../../../openapi.json";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=assets");
    println!("cargo::rerun-if-changed={DOCUMENT}");
    let read = |name: &str| fs::read_to_string(Path::new("assets").join(name));
    let style = read("swagger-ui.css")?;
    let scripts = [read("swagger-ui-bundle.js")?, read("start.js")?];
    let elements = scripts.each_ref().map(|script| format!("<script>{script}</script>")).concat();
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>email_service</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><link rel=\"icon\" href=\"data:,\">\
         <style>{style}</style></head><body><div id=\"docs\"></div>{elements}</body></html>"
    );
    let hashes = scripts.map(|script| format!("'sha256-{}'", BASE64.encode(Sha256::digest(script)))).join(" ");
    println!("cargo::rustc-env=SCRIPT_HASHES={hashes}");
    compress("PAGE_HASH", "page.html.gz", &page)?;
    compress("DOCUMENT_HASH", "openapi.json.gz", &fs::read_to_string(DOCUMENT)?)
}

/// Leaves a text compressed in a file, and its hash in a variable of the compiler's.
fn compress(hash: &str, file: &str, text: &str) -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-env={hash}={}", BASE64.encode(Sha256::digest(text)));
    let mut compressed = GzEncoder::new(Vec::new(), Compression::best());
    compressed.write_all(text.as_bytes())?;
    let folder = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&folder).join(file), compressed.finish()?)?;
    Ok(())
}
