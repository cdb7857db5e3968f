//! A small server built with the official Rust SDK: the behaviour of a third party, exits on unexpected probes included.

use rmcp::handler::server::router::prompt::PromptRouter;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    ListResourcesResult, PaginatedRequestParams, PromptMessage, ReadResourceRequestParams, ReadResourceResponse,
    ReadResourceResult, Resource, ResourceContents, Role, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt, prompt, prompt_handler, prompt_router, schemars, tool,
    tool_handler, tool_router,
};
use std::process::ExitCode;

const NOTE: &str = "note://readme";

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Add {
    /// The first number.
    a: i64,
    /// The second number.
    b: i64,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Echo {
    /// What to answer.
    text: String,
}

#[derive(Debug, Clone)]
struct Sample {
    tools: ToolRouter<Self>,
    prompts: PromptRouter<Self>,
}

#[tool_router(router = tool_routes)]
impl Sample {
    #[tool(description = "Adds two numbers")]
    fn add(&self, Parameters(Add { a, b }): Parameters<Add>) -> String {
        a.checked_add(b).map_or_else(|| "the sum is too large".to_owned(), |sum| sum.to_string())
    }

    #[tool(description = "Answers its text")]
    fn echo(&self, Parameters(Echo { text }): Parameters<Echo>) -> String {
        text
    }
}

#[prompt_router(router = "prompt_routes")]
impl Sample {
    #[prompt(name = "greet", description = "A greeting")]
    async fn greet(&self) -> Vec<PromptMessage> {
        vec![PromptMessage::new_text(Role::User, "Say hello to whoever comes to the landing stage.")]
    }
}

#[tool_handler(router = self.tools)]
#[prompt_handler(router = self.prompts)]
impl ServerHandler for Sample {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources().build();
        ServerConfig::new(capabilities).with_instructions("A small server built with rmcp.")
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let note = Resource::new(NOTE, "readme").with_mime_type("text/plain");
        Ok(ListResourcesResult::with_all_items(vec![note]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        if request.uri != NOTE {
            return Err(ErrorData::resource_not_found(format!("no resource {}", request.uri), None));
        }
        Ok(ReadResourceResult::new(vec![ResourceContents::text("A note.", NOTE)]).into())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let sample = Sample { tools: Sample::tool_routes(), prompts: Sample::prompt_routes() };
    let served =
        async { sample.serve(rmcp::transport::stdio()).await.map_err(Box::new)?.waiting().await.map_err(Into::into) };
    let served: Result<_, Box<dyn std::error::Error>> = served.await;
    match served {
        Ok(_reason) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "rmcp-server: {error}");
            ExitCode::FAILURE
        }
    }
}
