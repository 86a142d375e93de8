// Other people's clients as they are published, for the tests to call; nothing here but glue.
import * as core from "@cornerstonejs/core";
import dicomImageLoader from "@cornerstonejs/dicom-image-loader";
import { utilities } from "@cornerstonejs/metadata";
import dcmjs from "dcmjs";
import { api } from "dicomweb-client";

const ready = (async () => {
  await core.init();
  dicomImageLoader.init({ maxWebWorkers: 2 });
})();

/** The client of dcmjs-org, which OHIF uses as well. */
function dicomwebClient(url) {
  return new api.DICOMwebClient({ url });
}

/** Bytes that pass through Playwright. */
function base64(bytes) {
  const whole = new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0, bytes.byteLength);
  let text = "";
  for (let start = 0; start < whole.length; start += 32768) {
    text += String.fromCharCode(...whole.subarray(start, start + 32768));
  }
  return btoa(text);
}

/** A wadors image id, with the instance's metadata handed to the loader: to its own manager, or to the newer package. */
async function announce(root, [study, series, instance], frame, newer) {
  await ready;
  const answer = await dicomwebClient(root).retrieveInstanceMetadata({
    studyInstanceUID: study,
    seriesInstanceUID: series,
    sopInstanceUID: instance,
  });
  const metadata = Array.isArray(answer) ? answer[0] : answer;
  const frames = `wadors:${root}/studies/${study}/series/${series}/instances/${instance}/frames/`;
  for (const id of new Set([`${frames}1`, `${frames}${frame}`])) {
    if (newer) {
      await utilities.addDicomWebInstance(id, metadata);
    } else {
      dicomImageLoader.wadors.metaDataManager.add(id, metadata);
    }
  }
  return `${frames}${frame}`;
}

function described(image) {
  const values = image.getPixelData();
  return {
    kind: values.constructor.name,
    shape: [image.rows, image.columns],
    transferSyntax: image.transferSyntaxUID,
    quality: image.imageQualityStatus,
    values: base64(values),
  };
}

/** One frame through the loader, with Cornerstone's own decoders. */
async function load(root, uids, frame, { newer, ...options }) {
  const id = await announce(root, uids, frame, newer);
  core.cache.purgeCache();
  return described(await core.imageLoader.loadAndCacheImage(id, options));
}

/** One frame in stages (Cornerstone3D, "Progressive Loading"): each picture as it is got, the last one whole. */
async function loadInStages(root, uids, frame, stages, retrieveOptions) {
  const id = await announce(root, uids, frame);
  core.cache.purgeCache();
  const pictures = [];
  const errors = [];
  const listener = {
    successCallback: (_, image) => pictures.push(described(image)),
    errorCallback: (_, __, reason) => errors.push(String(reason?.message ?? reason)),
    getLoaderImageOptions: () => ({ preScale: { enabled: false } }),
  };
  await core.ProgressiveRetrieveImages.createProgressive({ stages, retrieveOptions }).loadImages([id], listener);
  return { pictures, errors };
}

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** A method of dcmjs-org's client; bytes go in and out in base64. */
async function call(root, method, options) {
  const datasets = options.datasets?.map((text) => bytes(text).buffer);
  const answer = await dicomwebClient(root)[method](datasets ? { ...options, datasets } : options);
  const packed = (one) => (one instanceof ArrayBuffer || ArrayBuffer.isView(one) ? { base64: base64(one) } : one);
  return Array.isArray(answer) ? answer.map(packed) : packed(answer);
}

/** Metadata of a series as dcmjs names them, one data set an instance. */
async function naturalized(root, studyInstanceUID, seriesInstanceUID) {
  const all = await dicomwebClient(root).retrieveSeriesMetadata({ studyInstanceUID, seriesInstanceUID });
  return all.map((one) => dcmjs.data.DicomMetaDictionary.naturalizeDataset(one));
}

/** A whole file as dcmjs reads it. */
function readFile(text) {
  return dcmjs.data.DicomMetaDictionary.naturalizeDataset(dcmjs.data.DicomMessage.readFile(bytes(text).buffer).dict);
}

window.clients = { call, load, loadInStages, naturalized, readFile };
