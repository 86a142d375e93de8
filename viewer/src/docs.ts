/** `/docs`: the service's own OpenAPI description in Swagger UI, with nothing fetched from elsewhere. */

import { SwaggerUIBundle } from "swagger-ui-dist";
import "swagger-ui-dist/swagger-ui.css";

SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
