// Modules and launches. A module is PTX text; what is read from it is what the driver would hold a
// launch to. The kernel that runs is the one of the same name, compiled for the host.
#include "world.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fakecuda {

// parameter_bytes reads the size of a kernel's parameters from their declarations.
static uint64_t parameter_bytes(const std::string &list)
{
	uint64_t bytes = 0;
	for (size_t i = list.find(".param"); i != std::string::npos; i = list.find(".param", i + 6)) {
		std::string one = list.substr(i, list.find(".param", i + 6) - i);
		uint64_t align = 0, size = 0;
		if (size_t a = one.find(".align"); a != std::string::npos)
			align = strtoull(one.c_str() + a + 6, nullptr, 10);
		if (size_t b = one.find('['); b != std::string::npos) {
			size = strtoull(one.c_str() + b + 1, nullptr, 10); // of bytes
		} else {
			size_t t = one.find_first_of("usbf", 7);
			size = t == std::string::npos ? 0 : strtoull(one.c_str() + t + 1, nullptr, 10) / 8;
		}
		align = align ? align : size ? size : 1;
		bytes = (bytes + align - 1) / align * align + size;
	}
	return bytes;
}

static std::string word(const std::string &text, size_t at)
{
	at = text.find_first_not_of(" \t", at);
	return at == std::string::npos ? "" : text.substr(at, text.find_first_of(" \t\r\n({,", at) - at);
}

// Text is what is read of a module's text.
struct Text {
	int major = 0, minor = 0, sm = 0;
	char arch = 0;
	std::map<std::string, Kernel> kernels;
	std::string wrong; // what ptxas would say
};

static Text read(const std::string &ptx)
{
	Text text;
	size_t v = ptx.find(".version"), t = ptx.find(".target");
	if (v == std::string::npos || t == std::string::npos ||
		sscanf(ptx.c_str() + v, ".version %d.%d", &text.major, &text.minor) != 2 ||
		sscanf(ptx.c_str() + t, ".target sm_%d%c", &text.sm, &text.arch) < 1) {
		text.wrong = "ptxas fatal : no .version and .target in the first lines";
		return text;
	}
	for (size_t e = ptx.find(".entry"); e != std::string::npos; e = ptx.find(".entry", e + 6)) {
		Kernel k;
		k.name = word(ptx, e + 6);
		size_t open = ptx.find('(', e), close = ptx.find(')', e), body = ptx.find('{', e);
		if (k.name.empty() || body == std::string::npos) {
			text.wrong = "ptxas error : syntax error near an .entry";
			return text;
		}
		if (open < body && close < body)
			k.argument_bytes = parameter_bytes(ptx.substr(open, close - open));
		std::string head = ptx.substr(e, body - e);
		for (const char *directive : {".maxntid", ".reqntid"})
			if (size_t d = head.find(directive); d != std::string::npos) {
				unsigned x = 1, y = 1, z = 1;
				sscanf(head.c_str() + d + strlen(directive), " %u, %u, %u", &x, &y, &z);
				k.threads_max = x * y * z;
			}
		text.kernels[k.name] = k;
	}
	return text;
}

// parse reads a module as the driver would for a device. Texts are read once: they are long, and
// tests load them thousands of times.
static int parse(const char *image, World &w, Module &m, std::string &log)
{
	static auto *known = new std::map<uint64_t, Text>; // under the world's lock
	uint64_t bytes = strlen(image), key = hash(image, bytes);
	auto i = known->find(key);
	if (i == known->end())
		i = known->emplace(key, read(std::string(image, bytes))).first;
	const Text &text = i->second;
	log = text.wrong;
	if (!text.wrong.empty())
		return INVALID_PTX;
	// ISA 7.x came with CUDA 11.x, 8.x with 12.x, 9.x with 13.x.
	if ((text.major + 4) * 1000 + text.minor * 10 > w.version)
		return UNSUPPORTED_PTX;
	if (text.sm > w.capability || (text.arch == 'a' && text.sm != w.capability))
		return NO_BINARY;
	m.kernels = text.kernels;
	return OK;
}

EXPORT int cuModuleLoadDataEx(Module **out, const void *image, unsigned count, int *options,
	void **values)
{
	Call call("cuModuleLoadDataEx", true);
	*out = nullptr;
	char *log = nullptr;
	uint64_t log_bytes = 0;
	for (unsigned i = 0; i < count; i++) {
		if (options[i] == 5)
			log = static_cast<char *>(values[i]);
		if (options[i] == 6)
			log_bytes = reinterpret_cast<uint64_t>(values[i]);
	}
	auto say = [&](const std::string &text) {
		if (log && log_bytes)
			snprintf(log, log_bytes, "%s", text.c_str());
	};
	if (call.code != OK) {
		say("a failure that was asked for");
		return call.code;
	}
	Module *m = new Module{call.context, {}};
	std::string text;
	if (int r = parse(static_cast<const char *>(image), call.w, *m, text)) {
		say(text);
		delete m;
		return r;
	}
	for (auto &k : m->kernels)
		k.second.module = m;
	call.w.modules.insert(m);
	*out = m;
	return OK;
}

EXPORT int cuModuleUnload(Module *m)
{
	Call call("cuModuleUnload", true);
	if (!call.has(call.w.modules, m, "module"))
		return call.code != OK ? call.code : int(INVALID_HANDLE);
	call.w.modules.erase(m);
	call.w.drain(call.lock, call.context);
	delete m;
	return call.code;
}

EXPORT int cuModuleGetFunction(Kernel **out, Module *m, const char *name)
{
	Call call("cuModuleGetFunction", true);
	*out = nullptr;
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.modules, m, "module"))
		return call.refuse(INVALID_HANDLE);
	auto i = m->kernels.find(name);
	if (i == m->kernels.end())
		return NOT_FOUND;
	uint32_t bytes = mr_play_args_bytes(name);
	if (bytes != 0 && bytes != i->second.argument_bytes)
		call.w.violate(call.context, "kernel " + std::string(name) + " has " +
			std::to_string(i->second.argument_bytes) + " bytes of arguments in PTX, " +
			std::to_string(bytes) + " in its source: the PTX is stale");
	*out = &i->second;
	return call.refuse(OK);
}

// known reports whether a handle is a kernel of a module that is loaded.
static bool known(const World &w, const Kernel *k)
{
	for (const Module *m : w.modules)
		for (const auto &e : m->kernels)
			if (&e.second == k)
				return true;
	return false;
}

// fakecuda_access tells what the next launch on a stream reads or writes.
EXPORT void fakecuda_access(Stream *s, uint64_t at, uint64_t bytes, int write)
{
	World &w = world();
	std::unique_lock<std::mutex> lock(w.m);
	if (w.streams.count(s))
		s->declared.push_back({at, bytes, write != 0});
}

// refusal returns why a GPU would not take a launch; "" if it would.
static std::string refusal(const Kernel &k, const uint32_t grid[3], const uint32_t block[3],
	uint32_t shared, uint64_t argument_bytes)
{
	uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
	if (threads == 0 || threads > k.threads_max || block[2] > 64)
		return "blocks of " + std::to_string(threads) + " threads";
	if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[0] > 0x7FFFFFFF || grid[1] > 65535 ||
		grid[2] > 65535)
		return "a grid of " + std::to_string(grid[0]) + " x " + std::to_string(grid[1]) + " x " +
			std::to_string(grid[2]);
	if (shared > shared_max)
		return std::to_string(shared) + " bytes of shared memory, which must be asked for";
	if (argument_bytes != k.argument_bytes)
		return std::to_string(argument_bytes) + " bytes of arguments, the kernel has " +
			std::to_string(k.argument_bytes);
	return "";
}

// declare checks and orders what a launch uses.
static void declare(Call &call, Stream *s, const std::vector<Touch> &uses, const std::string &what)
{
	if (uses.empty())
		call.w.violate(call.context, what + " says nothing of the memory that it uses");
	for (const Touch &t : uses) {
		if (!call.w.allocated(t.at, t.bytes) && !call.w.registered(t.at, t.bytes))
			call.w.violate(call.context, what + (t.write ? " writes " : " reads ") +
				std::to_string(t.bytes) + " bytes at " + hex(t.at) + ", which are not allocated");
		else
			call.w.access(s, t.at, t.bytes, t.write, what);
	}
}

EXPORT int cuLaunchKernel(Kernel *k, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
	unsigned bz, unsigned shared, Stream *s, void **, void **extra)
{
	Call call("cuLaunchKernel", true);
	std::vector<Touch> uses;
	if (call.w.streams.count(s))
		uses.swap(s->declared);
	if (call.code != OK)
		return call.code;
	if (!call.has(call.w.streams, s, "stream"))
		return call.refuse(INVALID_HANDLE);
	if (!known(call.w, k)) {
		call.w.violate(call.context, "a launch of a function that is unloaded, or never was");
		return call.refuse(INVALID_HANDLE);
	}
	const uint8_t *args = nullptr;
	size_t bytes = 0;
	for (void **e = extra; e && *e; e += 2) {
		if (*e == reinterpret_cast<void *>(1))
			args = static_cast<uint8_t *>(e[1]);
		if (*e == reinterpret_cast<void *>(2))
			bytes = *static_cast<size_t *>(e[1]);
	}
	const std::string what = "kernel " + k->name + " on " + s->name();
	uint32_t grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
	std::string no = refusal(*k, grid, block, shared, bytes);
	if (!no.empty()) {
		call.w.violate(call.context, what + " has " + no);
		return call.refuse(INVALID_VALUE);
	}
	call.w.begin(s);
	declare(call, s, uses, what);
	Op op;
	std::vector<uint64_t> copy((bytes + 7) / 8);
	if (bytes)
		memcpy(copy.data(), args, bytes);
	std::string name = k->name;
	op.cost = call.w.launch_ns;
	op.run = [=] {
		if (mr_play_launch(name.c_str(), grid, block, shared, copy.data()) == 0)
			return std::string();
		return what + ": " + mr_play_error();
	};
	call.w.push(s, std::move(op));
	return OK;
}

} // namespace fakecuda
