// image.js: pictures as tensors (Tensor.fromImage): on the CPU through a canvas, or without leaving the GPU: copied into a texture, resized and normalised by one shader into a buffer.
import { InvalidArgument, NotImplemented } from "./errors.js";
import { isA } from "./load.js";
import { sizeOf } from "./tensor.js";

const SHADER = `struct Params { width: u32, height: u32, channels: u32, last: u32, swapped: u32, mean: vec4<f32>, bias: vec4<f32> };
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var picture: texture_2d<f32>;
@group(0) @binding(2) var way: sampler;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(8, 8) fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  if (g.x >= p.width || g.y >= p.height) { return; }
  let at = (vec2<f32>(g.xy) + 0.5) / vec2<f32>(f32(p.width), f32(p.height));
  var c = textureSampleLevel(picture, way, at, 0.0) * 255.0;
  c = select(c, c.bgra, p.swapped == 1u);
  c = (c + p.bias) / p.mean;
  for (var k = 0u; k < p.channels; k++) {
    y[select((k * p.height + g.y) * p.width + g.x, (g.y * p.width + g.x) * p.channels + k, p.last == 1u)] = c[k];
  }
}`;
const TEXTURE = 2 | 4 | 16; // GPUTextureUsage: COPY_DST | TEXTURE_BINDING | RENDER_ATTACHMENT

/**
 * {data | gpu, dims, type, device} of a picture: ImageData, ImageBitmap, VideoFrame, an image, video or canvas element, OffscreenCanvas, Blob, URL, or (on the GPU) a GPUTexture.
 * Options as onnxruntime-web's: resizedWidth, resizedHeight, tensorFormat ("RGB", "BGR", "RGBA"), tensorLayout ("NCHW", "NHWC"), dataType ("float32", "uint8"), norm: {mean, bias}: (value + bias) / mean;
 * and location: "gpu-buffer", a GPUTexture's own.
 */
export async function pictured(source, options = {}) {
  const { tensorFormat = "RGB", tensorLayout = "NCHW", dataType = "float32", location = isTexture(source) ? "gpu-buffer" : "cpu", norm = {} } = options;
  if (!["RGB", "BGR", "RGBA"].includes(tensorFormat)) throw new InvalidArgument(`tensorFormat '${tensorFormat}' is not one of RGB, BGR and RGBA`);
  if (!["NCHW", "NHWC"].includes(tensorLayout)) throw new InvalidArgument(`tensorLayout '${tensorLayout}' is not one of NCHW and NHWC`);
  if (!["float32", "uint8"].includes(dataType)) throw new InvalidArgument(`dataType '${dataType}' of a picture is not one of float32 and uint8`);
  if (isTexture(source) && location !== "gpu-buffer") throw new InvalidArgument("a GPUTexture's picture stays on the GPU: leave location out, or say 'gpu-buffer'");
  const picture = await drawable(source);
  const width = options.resizedWidth ?? extent(picture, "Width"), height = options.resizedHeight ?? extent(picture, "Height");
  sizeOf([width, height]);
  if (!width || !height) throw new InvalidArgument(`a picture of ${width} × ${height} pixels: wait until it is loaded (image.decode(), a video's 'loadeddata')`);
  const channels = tensorFormat === "RGBA" ? 4 : 3, last = tensorLayout === "NHWC", swapped = tensorFormat === "BGR";
  const mean = four(norm.mean, dataType === "uint8" && norm.mean === undefined ? 1 : 255), bias = four(norm.bias, 0);
  const dims = last ? [1, height, width, channels] : [1, channels, height, width];
  const asked = { width, height, channels, last, swapped, mean, bias };
  if (location !== "gpu-buffer") return { type: dataType, dims, data: onCpu(picture, asked, dataType) };
  if (dataType !== "float32") throw new NotImplemented("a picture on the GPU is of float32");
  const { openDevice } = await import("./gpu.js");
  const device = await openDevice();
  return { type: dataType, dims, device, gpu: await onGpu(device, picture, asked) };
}

const isTexture = (source) => isA(source, "GPUTexture");

const four = (given, standard) => (Array.isArray(given) ? [...given, ...Array(4).fill(standard)].slice(0, 4) : Array(4).fill(given ?? standard));

/** Pixels of a picture along an axis: elements say natural- or videoWidth, frames displayWidth. */
const extent = (picture, axis) => picture[`natural${axis}`] || picture[`video${axis}`] || picture[`display${axis}`] || picture[axis.toLowerCase()];

async function drawable(source) {
  if (typeof source === "string" || source instanceof URL) {
    const response = await fetch(source);
    if (!response.ok) throw new InvalidArgument(`the picture '${source}' is not there (HTTP ${response.status})`);
    source = await response.blob();
  }
  if (isA(source, "Blob")) {
    if (typeof createImageBitmap !== "function") throw new NotImplemented("pictures are decoded in browsers only; decode it and give its data");
    try {
      return await createImageBitmap(source);
    } catch (error) {
      throw new InvalidArgument(`the picture can not be decoded: ${error.message}`, { cause: error });
    }
  }
  if (!extent(source ?? {}, "Width") && !(source && "width" in source)) throw new InvalidArgument(`a picture is ImageData, an ImageBitmap, VideoFrame, image, video, canvas, Blob or URL, not ${source?.constructor?.name ?? typeof source}`);
  return source;
}

function pixels(picture, width, height) {
  const plain = picture.data instanceof Uint8ClampedArray;
  if (plain && picture.width === width && picture.height === height) return picture.data;
  if (typeof OffscreenCanvas !== "function") throw new NotImplemented("pictures are drawn in browsers only; give the data of a tensor");
  let from = picture;
  if (plain) {
    from = new OffscreenCanvas(picture.width, picture.height);
    from.getContext("2d").putImageData(picture, 0, 0);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(from, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

function onCpu(picture, { width, height, channels, last, swapped, mean, bias }, dataType) {
  const from = pixels(picture, width, height), count = width * height;
  const made = new (dataType === "uint8" ? Uint8Array : Float32Array)(count * channels);
  for (let k = 0; k < channels; k++) {
    const source = swapped && k < 3 ? 2 - k : k;
    for (let i = 0; i < count; i++) made[last ? i * channels + k : k * count + i] = (from[4 * i + source] + bias[k]) / mean[k];
  }
  return made;
}

/** A frame of a video that the browser can not hand over as it is, is decoded first; and so is any where a processor plays the GPU: Chromium 150 loses that device over it. */
async function copied({ device, isCpu }, picture, texture, size) {
  const copy = (source) => device.queue.copyExternalImageToTexture({ source }, { texture }, size);
  const moving = isA(picture, "VideoFrame") || isA(picture, "HTMLVideoElement");
  try {
    copy(isCpu && moving ? await createImageBitmap(picture) : picture);
  } catch (error) {
    if (error.name !== "OperationError") throw new InvalidArgument(`the picture can not be copied to the GPU: ${error.message}`, { cause: error });
    copy(await createImageBitmap(picture));
  }
}

async function onGpu(gpu, picture, { width, height, channels, last, swapped, mean, bias }) {
  const { device } = gpu, own = !isTexture(picture);
  gpu.pictures ??= device.createComputePipelineAsync({ label: "pictures", layout: "auto", compute: { module: device.createShaderModule({ code: SHADER }), entryPoint: "main" } });
  const pipeline = await gpu.pictures;
  const size = [extent(picture, "Width"), extent(picture, "Height")];
  const made = gpu.storage(4 * width * height * channels, "a picture"), params = gpu.uniform(64);
  const texture = own ? device.createTexture({ size, format: "rgba8unorm", usage: TEXTURE }) : picture;
  try {
    if (own) await copied(gpu, picture, texture, size);
    await gpu.guarded(() => {
      const data = new ArrayBuffer(64);
      new Uint32Array(data, 0, 5).set([width, height, channels, +last, +swapped]);
      new Float32Array(data, 32, 8).set([...mean, ...bias]);
      device.queue.writeBuffer(params, 0, data);
      const way = device.createSampler(size[0] === width && size[1] === height ? {} : { magFilter: "linear", minFilter: "linear" });
      const resources = [{ buffer: params }, texture.createView(), way, { buffer: made }];
      const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: resources.map((resource, binding) => ({ binding, resource })) });
      const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(Math.ceil(width / 8), Math.ceil(height / 8));
      pass.end();
      device.queue.submit([encoder.finish()]);
    }, own ? undefined : (why) => new InvalidArgument(`the texture can not be read: ${why}. It must belong to env.webgpu.device, be alive, hold floats or normalised numbers, and have the usage TEXTURE_BINDING`));
  } catch (error) {
    gpu.free(made);
    throw error;
  } finally {
    gpu.free(params);
    if (own) texture.destroy();
  }
  return made;
}
