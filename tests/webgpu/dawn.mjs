// Compiles shaders with Dawn (npm `webgpu`, null backend: Tint's checks and Dawn's pipeline validation, no GPU).
// stdin: JSON [{ label, source, writes: [bool] }]; argv[2]: the folder of npm packages; stdout: JSON [{ index, message }] of those Dawn rejects.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const { create, globals } = createRequire(`${process.argv[2]}/`)('webgpu');
Object.assign(globalThis, globals);
const gpu = create(['backend=null']); // kept: what Dawn made goes with it
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: ['shader-f16', 'subgroups'] }); // WebGPU's default limits: 8 storage buffers, 256 invocations
const shaders = JSON.parse(readFileSync(0, 'utf8'));
const rejected = [];
for (const [index, { label, source, writes }] of shaders.entries()) {
    device.pushErrorScope('validation');
    const entries = [{ binding: 0, visibility: GPUShaderStage.COMPUTE, buffer: { type: 'uniform' } },
        ...writes.map((w, i) => ({ binding: i + 1, visibility: GPUShaderStage.COMPUTE, buffer: { type: w ? 'storage' : 'read-only-storage' } }))];
    const module = device.createShaderModule({ code: source, label });
    device.createComputePipeline({ layout: device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] }), compute: { module, entryPoint: 'main' } });
    const error = await device.popErrorScope();
    if (error) rejected.push({ index, message: error.message });
}
process.stdout.write(JSON.stringify({ compiled: shaders.length, rejected }));
process.exit(0);
