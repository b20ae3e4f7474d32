//! POST /api/oauth2/authorizations: begins a sign-in with a provider. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_providers(start_sign_in::providers, start_sign_in::handler).await
}
