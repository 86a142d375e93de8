// Other people's clients as they are published, for the tests to call; nothing here but glue.
import * as core from "@cornerstonejs/core";
import dicomImageLoader from "@cornerstonejs/dicom-image-loader";
import dcmjs from "dcmjs";
import { api } from "dicomweb-client";

window.clients = { core, dicomImageLoader, dcmjs, DICOMwebClient: api.DICOMwebClient };
