//! Writes `openapi.json` and the copy of the types that the TypeScript client has of it.

fn main() -> anyhow::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");
    std::fs::write(path, openapi::document()?)?;
    println!("Wrote openapi.json. For the client's types: npm --prefix clients/typescript run generate");
    Ok(())
}
