"""Builds LLVM IR: a thin layer over llvmlite's IRBuilder that all kernels of this package use.

All operations work on vectors of `lanes` floats, one example in each lane. So kernels combine lanes only to sum over
examples, and channel counts need not be multiples of anything.
"""

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import llvmlite.binding as llvm
from llvmlite import ir

F32, F64, I32, I64, POINTER = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64), ir.PointerType()
VOID = ir.VoidType()

Index: TypeAlias = ir.Value | int
"""Index of a float relative to a pointer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The CPU that code is written for.

    Attributes:
        name, features: CPU name and feature string for LLVM.
        lanes: floats in a vector register.
        registers: number of vector registers.
    """

    name: str
    features: str
    lanes: int
    registers: int

    def with_lanes_dividing(self, batch_size: int) -> "Machine":
        """Returns this machine with a number of lanes that divides the batch. A single lane is correct, but slow."""
        return replace(self, lanes=math.gcd(self.lanes, batch_size))

    @classmethod
    def host(cls) -> "Machine | None":
        """Returns this CPU, or None if it is neither 64-bit ARM nor an x86 with AVX-512, or with AVX2 and FMA."""
        name, found = llvm.get_host_cpu_name(), llvm.get_host_cpu_features()
        arm = llvm.get_default_triple().startswith(("aarch64", "arm64"))
        # LLVM assumes that some CPUs prefer vectors of half the width; these kernels do not.
        features = ",".join(filter(None, [found.flatten(), "" if arm else "-prefer-256-bit"]))
        if arm:
            return cls(name=name, features=features, lanes=4, registers=32)
        if found.get("avx512f") and found.get("avx512vl"):
            return cls(name=name, features=features, lanes=16, registers=32)
        if found.get("avx2") and found.get("fma"):
            return cls(name=name, features=features, lanes=8, registers=16)
        return None


class Emitter:
    """Writes one function."""

    def __init__(self, module: ir.Module, machine: Machine, name: str, arguments: Sequence[ir.Type]) -> None:
        self.machine = machine
        self.function = ir.Function(module, ir.FunctionType(VOID, arguments), name)
        self.args = self.function.args
        for argument in self.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        self.vector = ir.VectorType(F32, machine.lanes)
        self.entry = self.function.append_basic_block("entry")
        self.builder = ir.IRBuilder(self.function.append_basic_block("body"))

    def finish(self) -> ir.Function:
        """Completes the function and returns it."""
        self.builder.ret_void()
        with self.builder.goto_block(self.entry):
            self.builder.branch(self.function.basic_blocks[1])
        return self.function

    # -- control -----------------------------------------------------------------------------------------------

    @contextmanager
    def loop(self, count: Index, step: int = 1) -> Iterator[ir.Value]:
        """Writes a loop over 0, step, 2 * step, ... below `count`; its context is the body."""
        b = self.builder
        before = b.block
        body, after = (self.function.append_basic_block(name) for name in ("loop", "after"))
        end = self.index(count)
        b.cbranch(b.icmp_signed("<", I64(0), end), body, after)
        b.position_at_end(body)
        i = b.phi(I64)
        i.add_incoming(I64(0), before)
        yield i
        following = b.add(i, I64(step), flags=("nsw",))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, end), body, after)
        b.position_at_end(after)

    def variable(self, type_: ir.Type, start: ir.Value) -> ir.Value:
        """Returns a pointer to a stack variable, which the optimiser turns into a register."""
        with self.builder.goto_block(self.entry):
            place = self.builder.alloca(type_, name="variable")
        self.builder.store(start, place)
        return place

    # -- addresses and numbers -----------------------------------------------------------------------------------

    def index(self, value: Index) -> ir.Value:
        return I64(value) if isinstance(value, int) else value

    def affine(self, *terms: tuple[Index, int]) -> Index:
        """Returns the sum of value * factor over the terms."""
        constant, total = 0, None
        for value, factor in terms:
            if isinstance(value, int):
                constant += value * factor
                continue
            product = self.builder.mul(value, I64(factor), flags=("nsw",)) if factor != 1 else value
            total = product if total is None else self.builder.add(total, product, flags=("nsw",))
        if total is None:
            return constant
        return self.builder.add(total, I64(constant), flags=("nsw",)) if constant else total

    def at(self, pointer: ir.Value, index: Index) -> ir.Value:
        if index == 0 and isinstance(index, int):
            return pointer
        return self.builder.gep(pointer, [self.index(index)], inbounds=True, source_etype=F32)

    def load(self, pointer: ir.Value, index: Index = 0) -> ir.Value:
        """Returns the vector of floats at `pointer[index]`."""
        return self.builder.load(self.at(pointer, index), typ=self.vector, align=4 * self.machine.lanes)

    def store(self, value: ir.Value, pointer: ir.Value, index: Index = 0) -> None:
        self.builder.store(value, self.at(pointer, index), align=4 * self.machine.lanes)

    def scalar(self, pointer: ir.Value, index: Index = 0) -> ir.Value:
        return self.builder.load(self.at(pointer, index), typ=F32, align=4)

    def load_splat(self, pointer: ir.Value, index: Index = 0) -> ir.Value:
        """Returns the float at `pointer[index]` in every lane."""
        return self.splat(self.scalar(pointer, index))

    def splat(self, value: ir.Value) -> ir.Value:
        """Returns `value` in every lane."""
        nothing = ir.Constant(ir.VectorType(value.type, self.machine.lanes), ir.Undefined)
        first = ir.Constant(ir.VectorType(I32, self.machine.lanes), None)
        return self.builder.shuffle_vector(self.builder.insert_element(nothing, value, I32(0)), nothing, first)

    def const(self, value: float) -> ir.Value:
        return ir.Constant(self.vector, [F32(value)] * self.machine.lanes)

    def constants(self, *values: float) -> tuple[ir.Value, ...]:
        return tuple(self.const(value) for value in values)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fadd(a, b)

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fsub(a, b)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fmul(a, b)

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fdiv(a, b)

    def choose(self, comparison: str, a: ir.Value, b: ir.Value, yes: ir.Value, no: ir.Value) -> ir.Value:
        """Returns, lane by lane, `yes` where the comparison of a and b holds, else `no`; it never holds for NaN."""
        return self.builder.select(self.builder.fcmp_ordered(comparison, a, b), yes, no)

    def load_variable(self, variable: ir.Value) -> ir.Value:
        return self.builder.load(variable, typ=self.vector)

    def add_to(self, variable: ir.Value, value: ir.Value) -> None:
        """Writes variable += value."""
        self.builder.store(self.builder.fadd(self.load_variable(variable), value), variable)

    def add_product(self, variable: ir.Value, a: ir.Value, b: ir.Value) -> None:
        """Writes variable += a * b."""
        self.builder.store(self.fma(a, b, self.load_variable(variable)), variable)

    def add_scalar(self, value: ir.Value, pointer: ir.Value, index: Index) -> None:
        """Writes pointer[index] += value for one float."""
        place = self.at(pointer, index)
        self.builder.store(self.builder.fadd(self.builder.load(place, typ=F32, align=4), value), place, align=4)

    def sum_lanes(self, vector: ir.Value) -> ir.Value:
        """Returns the sum of the lanes, added pairwise."""
        name = f"llvm.vector.reduce.fadd.v{self.machine.lanes}f32"
        module = self.function.module
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(F32, [F32, self.vector]), name)
        return self.builder.call(function, [F32(-0.0), vector], fastmath=("reassoc",))

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Returns a * b + c, rounded once."""
        return self.call_intrinsic("llvm.fma", a, b, c)

    def call_intrinsic(self, intrinsic: str, *values: ir.Value) -> ir.Value:
        """Calls an intrinsic function of LLVM on floats, or on vectors lane by lane."""
        kind = values[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        name = f"{intrinsic}.{suffix}"
        known = self.function.module.globals.get(name)
        declared = known or ir.Function(
            self.function.module, ir.FunctionType(kind, [value.type for value in values]), name
        )
        return self.builder.call(declared, values)


class MachineCode:
    """Machine code in memory, valid as long as this object exists."""

    def __init__(self, module: ir.Module, machine: Machine) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=machine.name, features=machine.features, opt=3, jit=True
        )
        module.triple = target.triple
        # In its own context, which is freed with it: the global context keeps every constant it has seen.
        parsed = llvm.parse_assembly(str(module), llvm.create_context())
        # The kernels are already unrolled and vectorised. These three passes do all that is left in a tenth of a
        # second; -O2 takes as long as code generation.
        passes = llvm.create_new_function_pass_manager()
        passes.add_sroa_pass()
        passes.add_new_gvn_pass()
        passes.add_instruction_combine_pass()
        builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=1))
        for function in parsed.functions:
            if not function.is_declaration:
                passes.run(function, builder)
        self._references = target, parsed
        self._engine = llvm.create_mcjit_compiler(parsed, target)
        self._engine.finalize_object()

    def function(self, name: str, *arguments: type) -> Callable[..., None]:
        """Returns the function of that name; its calls release the GIL."""
        return ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address(name))
